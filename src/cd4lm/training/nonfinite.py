"""The file that a step with a non-finite loss or gradient leaves, and the command that computes its losses again.

    python -m cd4lm.training.nonfinite outputs/run/nonfinite/step-12-rank-0.pt [--weights CHECKPOINT]

Prints the loss of every example of the batch, with the masks, lambda and divisors of that step, under the weights of
the run's last checkpoint or of CHECKPOINT. Starting the run again from its last checkpoint repeats the steps up to it.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from cd4lm.config import exit_with_message, load, require


def save_reproducer(
    path: Path,
    step: int,
    seed: int,
    batches: list[dict[str, torch.Tensor]],
    divisors: torch.Tensor | None,
    losses: list[float],
) -> None:
    """Write one process's micro-batches of a step; seed, step and example ids are what masks depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cpu = [{name: tensor.cpu() for name, tensor in batch.items()} for batch in batches]
    divisors = None if divisors is None else divisors.cpu()
    torch.save({"step": step, "seed": seed, "batches": cpu, "divisors": divisors, "losses": losses}, path)


def example_losses(trainer, saved: dict) -> list[dict]:
    """One record per example of a reproducer: its share of the step's loss, under the trainer's present weights."""
    trainer.state.global_step, trainer.state.max_steps = saved["step"] - 1, trainer.args.max_steps
    trainer.model.train()
    divisors = saved["divisors"]
    records = []
    for batch in saved["batches"]:
        for i in range(len(batch["example_id"])):
            row = trainer._prepare_inputs({name: tensor[i : i + 1] for name, tensor in batch.items()})
            with torch.no_grad():
                share = trainer.compute_loss(
                    trainer.model,
                    row,
                    num_items_in_batch=None if divisors is None else divisors.to(trainer.args.device),
                )
            records.append({"example_id": batch["example_id"][i].item(), "loss": share.item()})
    return records


def main():
    from cd4lm.settings import ExperimentConfig
    from cd4lm.training.resume import last_checkpoint
    from cd4lm.training.train import build_trainer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--weights", help="checkpoint folder; default: the run's last one, else the teacher")
    arguments = parser.parse_args()
    require(arguments.file.is_file(), f"{arguments.file} does not exist: pass a file that a stopped run has named")
    folder = arguments.file.parent.parent
    saved = torch.load(arguments.file, weights_only=True)
    trainer = build_trainer(load(ExperimentConfig, folder / "config.yaml"), folder)
    weights = arguments.weights or last_checkpoint(folder / "checkpoints")
    if weights is not None:
        trainer._load_from_checkpoint(weights)
    records = example_losses(trainer, saved)
    for record in records:
        print(json.dumps(record | {"finite": math.isfinite(record["loss"])}))
    total = sum(record["loss"] for record in records)
    print(
        json.dumps(
            {"step": saved["step"], "sum": total, "in_the_run": saved["losses"], "weights": weights or "teacher"}
        )
    )


if __name__ == "__main__":
    exit_with_message(main)
