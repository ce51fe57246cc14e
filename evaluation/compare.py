"""What runs on the same documents say: each by itself, against a reference, and families of decoders at equal accuracy.

A family is the runs of one model whose decoders differ in the policy's main parameter alone (CAD at several thresholds). All
runs share their documents, so differences and ratios are paired, and intervals resample documents.
"""

from collections import Counter, defaultdict
from dataclasses import asdict
from statistics import mean, median, quantiles

import numpy as np

from cd4lm.config import require
from cd4lm.decoding.options import POLICIES
from evaluation.intervals import aup, estimate, mcnemar, mean_difference, mean_ratio, nfe_at, resample, wilson
from evaluation.metrics.verdict import NO_ANSWER, RIGHT
from evaluation.protocol import describe, prompt_conditions
from evaluation.run import Run


def outcomes_of(document: dict) -> list[str]:
    """The outcome of each response to a document."""
    return document.get("outcomes") or [document["outcome"]]


def summarise(run: Run) -> dict:
    """The numbers of one run; evaluation/README.md says what each means."""
    documents = run.documents
    outcomes = Counter(outcome for document in documents for outcome in outcomes_of(document))
    right, n, responses = int(run.right.sum()), len(documents), sum(outcomes.values())
    seconds, nfe, tokens = (run.column(name) for name in ("seconds", "nfe", "tokens"))
    return {
        "documents": n,
        "responses": responses,
        "right": right,
        "accuracy": right / n,
        "accuracy_95": wilson(right, n),
        "response_accuracy": outcomes[RIGHT] / responses,
        "nfe": nfe.mean(),
        "tokens_before_eos": tokens.mean(),
        "tokens_per_forward": tokens.sum() / nfe.sum(),
        "tokens_per_second": tokens_per_second(documents),
        "latency_mean": seconds.mean(),
        "latency_median": median(seconds.tolist()),
        "latency_95": quantiles(seconds.tolist(), n=20)[-1] if n > 1 else float(seconds[0]),
        "truncated": mean(document["truncated"] for document in documents),
        "no_answer": outcomes[NO_ANSWER],
        "outcomes": dict(sorted(outcomes.items())),
    }


def tokens_per_second(documents: list[dict]) -> float:
    """Tokens before EOS by decoding time, summed over processes; the time of a process is that of all its sessions.

    A document's clock is the decoding seconds of process `rank` in its session `session` when it was answered.
    """
    tokens: Counter = Counter()
    clocks: dict[tuple[int, int], float] = defaultdict(float)
    for d in documents:
        tokens[d["rank"]] += d["tokens"] * len(outcomes_of(d))
        place = (d["rank"], d["session"])
        clocks[place] = max(clocks[place], d["clock"])
    seconds: Counter = Counter()
    for (rank, _), clock in clocks.items():
        seconds[rank] += clock
    return sum(tokens[rank] / seconds[rank] for rank in tokens)


def check_paired(runs: list[Run]) -> None:
    """Raise ValueError naming the first document that two runs do not share, or runs under different protocols.

    The canvas may differ: it is part of how a run decodes. What an older run did not record is not checked.
    """
    first = {document["id"]: document["doc"] for document in runs[0].documents}
    recorded = [run for run in runs if run.protocol is not None]
    for run in recorded[1:]:
        require(
            prompt_conditions(run.protocol) == prompt_conditions(recorded[0].protocol),
            f"{run.name} ran {describe(run.protocol)}; {recorded[0].name} {describe(recorded[0].protocol)}: compare runs "
            "under one protocol",
        )
    for run in runs[1:]:
        require(run.task == runs[0].task, f"{run.name} ran {run.task}, {runs[0].name} {runs[0].task}: compare one task")
        own = {document["id"]: document["doc"] for document in run.documents}
        for i in sorted(first.keys() | own.keys()):
            lacks = runs[0].name if i not in first else run.name if i not in own else None
            require(lacks is None, f"document {i} is missing from {lacks}: compare runs over the same documents")
            require(first[i] == own[i], f"document {i} is another one in {run.name} than in {runs[0].name}")


def paired(reference: Run, other: Run) -> dict:
    """Difference other - reference; ratios reference / other of NFE and seconds, above 1 where the other needs less."""
    found = {
        "accuracy_difference": asdict(mean_difference(other.right, reference.right)),
        "only_reference_right": int((reference.right > other.right).sum()),
        "only_other_right": int((reference.right < other.right).sum()),
        "mcnemar_p": mcnemar(reference.right > 0, other.right > 0),
    }
    for measure, label in (("nfe", "fewer_nfe"), ("seconds", "faster")):
        found[label] = asdict(mean_ratio(reference.column(measure), other.column(measure)))
    return found


def families(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by family, named by model and policy, and by what else differs where that is not enough."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        decoder = run.about["decoder"]
        fixed = {k: v for k, v in decoder.items() if k not in (POLICIES[decoder["policy"]].option, "seed")}
        groups[(run.about["model"]["name"], tuple(sorted(fixed.items(), key=str)))].append(run)
    names = {key: f"{key[0]} + {dict(key[1])['policy']}" for key in groups}
    labels = {}
    for key, name in names.items():
        own, others = dict(key[1]), [dict(other[1]) for other, its in names.items() if its == name]
        differ = sorted(k for k in own if any(other.get(k) != own[k] for other in others))
        labels[key] = ", ".join([name, *(f"{k}={own[k]}" for k in differ)])
    return {labels[key]: group for key, group in groups.items()}


def equal_accuracy(groups: dict[str, list[Run]], reference: Run, margin: float) -> dict[str, np.ndarray]:
    """NFE of each family at the reference's accuracy less the margin, in every resample: (1 + R,)."""
    found = {}
    for name, runs in groups.items():
        C = len(runs)

        def statistic(*columns: np.ndarray, C: int = C) -> np.ndarray:
            means = [column.mean(axis=-1) for column in columns]
            accuracy, nfe = (np.stack(part, axis=1) for part in (means[:C], means[C : 2 * C]))
            return nfe_at(accuracy, nfe, means[-1] - margin)

        columns = [run.right for run in runs] + [run.column("nfe") for run in runs]
        found[name] = resample(statistic, *columns, reference.right)
    return found


def point(run: Run) -> tuple[float, float]:
    """Tokens per forward and accuracy in percent."""
    return run.column("tokens").sum() / run.column("nfe").sum(), 100 * run.right.mean()


def areas(groups: dict[str, list[Run]]) -> dict[str, float]:
    """AUP of each family of several runs, with the best accuracy of all runs as y_max (d3LLM)."""
    best = max(100 * run.right.mean() for runs in groups.values() for run in runs)
    return {
        name: aup([point(run) for run in runs], best).value
        for name, runs in groups.items()
        if len(runs) > 1 and best > 0
    }


def same_answers(runs: list[Run]) -> list[dict]:
    """Pairs of runs that differ in an exact cache alone: whether every answer and its NFE are the same."""
    found, plain = [], {}
    for run in runs:
        decoder = {k: v for k, v in run.about["decoder"].items() if k != "cache"}
        key = (run.about["model"]["name"], str(decoder))
        if run.about["decoder"]["cache"] == "none":
            plain[key] = run
        elif run.about["decoder"]["cache"] == "block" and key in plain:
            pairs = zip(plain[key].documents, run.documents, strict=True)
            same = all((a["response"], a["nfe"]) == (b["response"], b["nfe"]) for a, b in pairs)
            found.append({"run": run.name, "without": plain[key].name, "same": same})
    return found


def compare(runs: list[Run], reference: str | None = None, margin: float = 0.01) -> dict:
    """Everything that a report tables, as JSON. reference: a run's name, by default the first one's.

    margin: accuracy may be this far under the reference's and still count as equal.
    """
    names = [run.name for run in runs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    require(not twice, f"two runs are called {', '.join(twice)}: give each a name of its own")
    require(reference is None or reference in names, f"no run is called {reference}: use one of {', '.join(names)}")
    check_paired(runs)
    base = runs[0] if reference is None else runs[names.index(reference)]
    groups = families([run for run in runs if run.about["decoder"]["cache"] != "block"])
    needed, area = equal_accuracy(groups, base, margin), areas(groups)
    protocol = {} if base.protocol is None else {"protocol": describe(base.protocol)}
    return protocol | {
        "task": base.task,
        "documents": len(base.documents),
        "reference": base.name,
        "margin": margin,
        "y_max": max(100 * run.right.mean() for run in runs),
        "runs": {run.name: summarise(run) for run in runs},
        "against_reference": {run.name: paired(base, run) for run in runs if run is not base},
        "families": {
            name: {
                "runs": [run.name for run in group],
                "nfe_at_equal_accuracy": asdict(estimate(needed[name])),
                "aup": area.get(name),
            }
            for name, group in groups.items()
        },
        "nfe_ratios": {f"{a} / {b}": asdict(estimate(needed[a] / needed[b])) for a in groups for b in groups if a != b},
        "exact_caches": same_answers(runs),
    }
