"""What the stored numbers amount to: a summary of every variant, and every planned contrast with its test."""

import numpy as np

from evaluation.intervals import holm, mcnemar
from evaluation.study.estimates import Estimates
from evaluation.study.resampling import Draws, family_nfe_at, interval, p_value
from evaluation.study.results import Results
from evaluation.study.settings import Contrast


def contrast_row(estimates: Estimates, contrast: Contrast) -> dict | None:
    """One contrast: both values, the difference a - b over the seeds and problems both have, and its p-values."""
    results = estimates.results
    if contrast.a not in results.variants or contrast.b not in results.variants:
        return None
    seeds = results.common_seeds(contrast.a, contrast.b)
    count = estimates.problems_of(contrast.a, contrast.b)
    both = {name: estimates.of(contrast.measure, vars(contrast)[name], seeds, count) for name in ("a", "b")}
    with np.errstate(invalid="ignore"):
        difference = both["a"] - both["b"]  # NaN where neither reaches an accuracy
    single = Estimates(results, Draws(1, 0))  # a seed by itself is shown as it is, without resampling
    by_seed = [one_seed(single, contrast, [seed], count) for seed in seeds]
    return {
        **vars(contrast),
        "seeds": seeds,
        "problems": count,
        "value_a": interval(both["a"]),
        "value_b": interval(both["b"]),
        "difference": interval(difference),
        # Whether the interval lies on one side, also where an end of it is infinite.
        "sign": side(difference),
        "p": p_value(difference),
        "by_seed": [gap for gap, _ in by_seed],
        "mcnemar": [p for _, p in by_seed],
    }


def one_seed(estimates: Estimates, contrast: Contrast, seed: list[int], count: int) -> tuple[float | None, float]:
    """The difference a - b with one seed, and McNemar's exact p of the two with CAD at the headline threshold."""
    results = estimates.results
    with np.errstate(invalid="ignore"):
        a, b = (estimates.of(contrast.measure, v, seed, count)[0] for v in (contrast.a, contrast.b))
        gap = a - b
    right = [results.column(v, results.headline, "right", seed, count)[0] for v in (contrast.a, contrast.b)]
    return (float(gap) if np.isfinite(gap) else None), mcnemar(*right)


def side(samples: np.ndarray) -> int:
    """1 or -1 where the 95 % interval of a difference lies above or below 0, else 0."""
    drawn = np.where(np.isnan(samples[1:]), 0.0, samples[1:])
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    return int(low > 0) - int(high < 0)


def contrasts(estimates: Estimates) -> list[dict]:
    """All planned contrasts whose cells are there; p_holm over the main ones, None for the exploratory."""
    rows = [(f"C{i}", contrast_row(estimates, c)) for i, c in enumerate(estimates.results.study.contrasts, start=1)]
    rows = [{"id": name, **row} for name, row in rows if row is not None]
    main = [row for row in rows if row["main"]]
    corrected = dict(zip((row["id"] for row in main), holm([row["p"] for row in main]), strict=True))
    for row in rows:
        row["p_holm"] = corrected.get(row["id"])
    return rows


def variant_row(estimates: Estimates, variant: str) -> dict:
    """Every measure of one variant over its own seeds and problems."""
    results, study = estimates.results, estimates.results.study
    seeds, count = results.seeds(variant), estimates.problems_of(variant)
    accuracy, nfe = estimates.curves(variant, "fixed", seeds, count)
    mean = {w: estimates.decoder_mean(variant, results.headline, w, seeds, count) for w in ("right", "nfe", "length")}
    row = {"variant": variant, "seeds": seeds, "problems": count}
    row["headline_accuracy"], row["headline_nfe"] = interval(mean["right"]), interval(mean["nfe"])
    row["tokens_per_forward"] = interval(mean["length"] / mean["nfe"])
    row["nfe_fixed"] = interval(family_nfe_at(accuracy, nfe, estimates.target(count)))
    for measure in ("nfe", "accuracy_at_nfe", "error_at_threshold", "nll", "wordings"):
        row[measure] = interval(estimates.of(measure, variant, seeds, count))
    against = estimates.cad_against_fixed(variant, seeds, count)
    row["cad_against_fixed"] = interval(against) | {"sign": side(against)}
    row["calibration"] = {tau: calibration_row(estimates, variant, f"{tau:g}", seeds) for tau in study.thresholds}
    row["transfer"] = transfer_rows(estimates, variant, seeds)
    for name in ("same_tokens", "on_path"):
        row[name] = interval(estimates.ratio(variant, ("problems",), name, "states", seeds, "states"))
    return row


def calibration_row(estimates: Estimates, variant: str, tau: str, seeds: list[int]) -> dict:
    path = ("thresholds", tau, "problems")
    pairs = {"error": ("confident_wrong", "confident"), "wrong": ("wrong", "tokens")}
    pairs |= {"confident_wrong": ("confident_wrong", "tokens"), "confident": ("confident", "tokens")}
    return {n: interval(estimates.ratio(variant, path, a, b, seeds, "calibration")) for n, (a, b) in pairs.items()}


def transfer_rows(estimates: Estimates, variant: str, seeds: list[int]) -> dict:
    """Accuracy and NFE of each shape of canvas, and the accuracy lost against the shape trained with."""
    results = estimates.results

    def mean(shape: str, what: str) -> np.ndarray:
        path = ("shapes", shape, "problems", what)
        return estimates.draws.mean(results.counts(variant, "transfer", path, seeds))

    trained, *others = results.records(variant, "transfer", seeds)[0]["shapes"]
    before = mean(trained, "right")
    return {
        shape: {
            "accuracy": interval(mean(shape, "right")),
            "nfe": interval(mean(shape, "nfe")),
            "change": interval(mean(shape, "right") - before),
        }
        for shape in (trained, *others)
    }


def analyse(results: Results) -> dict:
    """The whole analysis as JSON."""
    study = results.study
    estimates = Estimates(results, Draws(study.resamples, study.seed))
    return {
        "problems": study.problems,
        "target": interval(estimates.target(study.problems)),
        "contrasts": contrasts(estimates),
        "variants": {variant: variant_row(estimates, variant) for variant in results.variants},
        "missing": [cell.name for cell in results.missing()],
    }
