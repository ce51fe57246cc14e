"""How often a checkpoint is right on the held-out sets of a prepared data folder, with intervals and forward passes.

    python scripts/held_out.py --model_path outputs/gsm8k_numbers_teacher --data data/gsm8k_numbers
    python scripts/held_out.py --model_path DIR --data data/tiny --splits test --steps 48 --gen_length 48 --json

Problems that come from one question (their key up to `:`) are a cluster: the interval is Wilson's for the number of
independent problems that would vary as much.
"""

import argparse
import json
from pathlib import Path

from cd4lm.config import exit_with_message, require
from cd4lm.decoding.command_line import Answerer, parser_of
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model.checkpoint import read_json


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, leave_out=("infill",))
    parser.add_argument("--data", type=Path, required=True, help="folder of scripts/prepare_data.py")
    parser.add_argument("--splits", nargs="+", default=["numbers", "questions"])
    parser.add_argument("--max_samples", type=int, help="problems of each split, default all")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path, help="folder for the runs: run.json and documents.jsonl of each split")
    parser.add_argument("--json", action="store_true", help="one JSON object per split instead of text")
    return parser.parse_args()


def read_splits(arguments: argparse.Namespace) -> tuple[str, dict[str, list[dict]]]:
    """The data set's name and the rows of every split asked for. Raises ValueError for what is not there."""
    from cd4lm.data.rows import read_jsonl

    manifest = arguments.data / "manifest.json"
    require(manifest.is_file(), f"{manifest} does not exist: prepare the folder with scripts/prepare_data.py")
    files = {split: arguments.data / f"{split}.jsonl" for split in arguments.splits}
    for split, file in files.items():
        there = ", ".join(sorted(f.stem for f in arguments.data.glob("*.jsonl")))
        require(file.is_file(), f"{arguments.data} has no split {split}: choose of {there} with --splits")
    rows = {split: read_jsonl(file)[: arguments.max_samples] for split, file in files.items()}
    require(all(rows.values()), "a split holds no problems: prepare the folder again, and give --max_samples above 0")
    return read_json(manifest)["dataset"], rows


def main():
    arguments = parse()
    require(arguments.max_samples is None or arguments.max_samples > 0, "--max_samples must be positive")
    dataset, splits = read_splits(arguments)
    from cd4lm.io import provenance
    from evaluation.intervals import wilson_of_clusters
    from evaluation.measure import measure, scorer
    from evaluation.run import Run

    score = scorer(dataset)
    answerer = Answerer(arguments.model_path, DecodingOptions.of_arguments(arguments))
    for split, rows in splits.items():
        how = {"batch_size": arguments.batch_size, "score": score, "label": split}
        documents = measure(answerer.model, answerer.tokenizer, rows, answerer.decoder, **how)
        about = {"name": f"{arguments.model_path} on {split}", "task": dataset, "split": split}
        about |= {"decoder": answerer.decoder.about(), "provenance": provenance()}
        run = Run(about, documents)
        if arguments.output is not None:
            run.write(arguments.output / split)
        questions = [row["key" if "key" in row else "question"].partition(":")[0] for row in rows]
        low, high = wilson_of_clusters(run.right, questions)
        found = {"split": split, "problems": len(rows), "questions": len(set(questions))}
        found |= {
            "accuracy": float(run.right.mean()),
            "accuracy_95": [low, high],
            "nfe": float(run.column("nfe").mean()),
        }
        if arguments.json:
            print(json.dumps(found))
        else:
            right = f"{100 * found['accuracy']:.1f} % right [{100 * low:.1f}, {100 * high:.1f}]"
            print(
                f"{split}: {right} of {len(rows)} problems from {found['questions']} questions, {found['nfe']:.1f} NFE"
            )


if __name__ == "__main__":
    exit_with_message(main)
