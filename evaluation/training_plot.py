"""The curves of training logs: parts of the loss, and what decoding validation problems said on the way.

    python -m evaluation.training_plot outputs/gsm8k_numbers_teacher [FOLDER ...] --output curves.png

Each folder is a run's, with its training_log.jsonl; runs are drawn in the same panels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.data.rows import read_jsonl
from cd4lm.decoding.panel import shown_path
from cd4lm.io import check_writable
from cd4lm.training.run_log import NAME

PARTS = {
    "reconstruction": "cross-entropy, nats",
    "consistency": "consistency, nats",
    "distillation": "distillation, nats",
    "certainty": "entropy where right, nats",
    "denoising": "masked denoising, nats",
    "lambda": "lambda",
}
WHOLE = {"loss": "loss, nats", "eval_loss": "loss on validation, nats"}
DECODED = {"eval_cad_accuracy": "right answers, validation", "eval_cad_nfe": "forward passes per answer, validation"}
POINTS = 200  # of a curve, each a mean of neighbouring steps


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points, about POINTS of them."""
    n = max(1, -(-len(points) // POINTS))
    groups = [points[i : i + n] for i in range(0, len(points), n)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def plot_logs(logs: Mapping[str, list[dict]], parts: Mapping[str, str], path: Path) -> None:
    """A panel for each of `parts` that a log has, a line for each log; a part that only some have is theirs alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    present = [key for key in parts if any(key in entry for log in logs.values() for entry in log)]
    require(bool(present), "none of the logs has a step yet")
    figure, panels = plt.subplots(1, len(present), figsize=(3.7 * len(present), 3.4), squeeze=False)
    for axes, key in zip(panels[0], present, strict=True):
        for i, (name, log) in enumerate(logs.items()):
            points = thinned([(entry["step"], entry[key]) for entry in log if key in entry])
            if points:
                axes.plot(
                    *zip(*points, strict=True), "o-" if len(points) < 20 else "-", ms=3, color=f"C{i}", label=name
                )
        if key in WHOLE and min(y for line in axes.lines for y in line.get_ydata()) > 0:
            axes.set_yscale("log")  # the first steps are far above all that follow
        axes.set_title(parts[key], fontsize=10)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = CommandParser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a training run")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the picture, .png, .pdf or .svg")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        require((folder / NAME).is_file(), f"{folder} has no {NAME}: name the folder of a training run")
    check_writable("--output", arguments.output)
    logs = {shown_path(folder): read_jsonl(folder / NAME) for folder in arguments.folders}
    plot_logs(logs, WHOLE | PARTS | DECODED, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    exit_with_message(main)
