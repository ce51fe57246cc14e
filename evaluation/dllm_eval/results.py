"""What a finished run writes: samples, results.json, and a table for people."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median, quantiles

from evaluation.dllm_eval.answers import Answer, fingerprint
from evaluation.dllm_eval.recorder import Document, Recorder
from evaluation.dllm_eval.scoring import PREFIX
from evaluation.metrics.verdict import NO_ANSWER, RIGHT
from evaluation.statistics import wilson


def sample_of(doc_id: int, document: Document) -> dict:
    """One line of samples_<task>.jsonl, with its answers for the totals; costs are means over the repeats of pass@k."""
    verdicts = [future.result() for future in document.verdicts]
    answers = [document.answers[i] for i in range(document.repeats)]
    best = next((v for v in verdicts if v.right), verdicts[0])
    return {
        "doc_id": doc_id,
        "doc": document.doc,
        "response": document.responses[0] if document.repeats == 1 else document.responses,
        "right": best.right,
        "outcome": best.outcome,
        "answer": best.answer,
        "nfe": mean(a.nfe for a in answers),
        "tokens": mean(a.tokens for a in answers),
        "seconds": mean(a.seconds for a in answers),
        "truncated": any(a.truncated for a in answers),
        "prompt_hash": fingerprint(document.prompt),
        "outcomes": [v.outcome for v in verdicts],
        "answers": [vars(a) for a in answers],
    }


def gathered(recorder: Recorder, model) -> dict[str, list[dict]] | None:
    """Samples of every process by task, in the order of the documents; None except in process 0."""
    own = [(task, sample_of(doc_id, document)) for (task, doc_id), document in recorder.documents.items()]
    parts = model.gather_object(own)
    if parts is None:
        return None
    samples: dict[str, dict[int, dict]] = defaultdict(dict)
    for task, sample in (entry for part in parts for entry in part):
        samples[task][sample["doc_id"]] = sample
    return {task: [rows[doc_id] for doc_id in sorted(rows)] for task, rows in samples.items()}


def tokens_per_second(answers: list[Answer]) -> float:
    """Tokens before EOS by decoding time, summed over processes; the time of a process is that of all its runs.

    A killed run counts up to its last stored answer.
    """
    tokens, clocks = Counter(), defaultdict(float)
    for answer in answers:
        tokens[answer.rank] += answer.tokens
        run = (answer.rank, answer.session)
        clocks[run] = max(clocks[run], answer.clock)
    seconds = Counter()
    for (rank, _), clock in clocks.items():
        seconds[rank] += clock
    return sum(tokens[rank] / seconds[rank] for rank in tokens)


def summarise(samples: list[dict]) -> dict:
    """The numbers of one task; see evaluation/README.md for what each means."""
    answers = [Answer(**answer) for sample in samples for answer in sample["answers"]]
    right, n = sum(sample["right"] for sample in samples), len(samples)
    seconds = [answer.seconds for answer in answers]
    outcomes = Counter(outcome for sample in samples for outcome in sample["outcomes"])
    return {
        "documents": n,
        "responses": len(answers),
        "right": right,
        "accuracy": right / n,
        "accuracy_95": wilson(right, n),
        "response_accuracy": outcomes[RIGHT] / len(answers),
        "nfe": mean(answer.nfe for answer in answers),
        "tokens_before_eos": mean(answer.tokens for answer in answers),
        "tokens_per_forward": sum(a.tokens for a in answers) / sum(a.nfe for a in answers),
        "tokens_per_second": tokens_per_second(answers),
        "latency_mean": mean(seconds),
        "latency_median": median(seconds),
        "latency_95": quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0],
        "truncated": mean(answer.truncated for answer in answers),
        "no_answer": outcomes[NO_ANSWER],
        "outcomes": dict(sorted(outcomes.items())),
    }


def table(tasks: dict[str, dict]) -> str:
    """The results as Markdown, one line per task."""
    lines = [
        "| task | accuracy, % [95 %] | NFE | tokens before EOS | tokens per forward | tokens/s | latency, s | cut off, % "
        "| no answer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, r in tasks.items():
        low, high = (100 * bound for bound in r["accuracy_95"])
        lines.append(
            f"| {task} ({r['documents']}) | {100 * r['accuracy']:.1f} [{low:.1f}, {high:.1f}] | {r['nfe']:.1f} "
            f"| {r['tokens_before_eos']:.1f} | {r['tokens_per_forward']:.2f} | {r['tokens_per_second']:.1f} "
            f"| {r['latency_mean']:.2f} | {100 * r['truncated']:.1f} | {r['no_answer']} of {r['responses']} |"
        )
    return "\n".join(lines)


def stock_table(results: dict) -> str:
    """lm-eval's own metrics of its tasks, one line each."""
    lines = ["| task | metric | value | standard error |", "|---|---|---|---|"]
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if isinstance(value, (int, float)) and kind and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{kind}", "none")
                error = f"{error:.4f}" if isinstance(error, float) else error
                lines.append(f"| {task} | {metric} ({kind}) | {value:.4f} | {error} |")
    return "\n".join(lines)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half-written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_results(folder: Path, samples: dict[str, list[dict]], lm_eval_results: dict, manifest: dict) -> str:
    """Write samples_<task>.jsonl, results.json and results.md into a folder, and return the table."""
    names = {task: task.removeprefix(PREFIX) for task in samples}
    tasks = {names[task]: summarise(rows) for task, rows in samples.items()}
    for task, rows in samples.items():
        lines = [json.dumps({k: v for k, v in row.items() if k != "answers"}, ensure_ascii=False) for row in rows]
        write_whole(folder / f"samples_{names[task]}.jsonl", "\n".join(lines) + "\n")
    stock = {task: found for task, found in lm_eval_results.items() if task not in samples}
    text = "\n\n".join(filter(None, [table(tasks) if tasks else "", stock_table(stock) if stock else ""]))
    results = {"tasks": tasks, "lm_eval": lm_eval_results, "manifest": manifest}
    write_whole(folder / "results.json", json.dumps(results, indent=2, default=str) + "\n")
    write_whole(folder / "results.md", text + "\n")
    return text
