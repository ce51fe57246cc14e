"""What every training run of the repository shares: order of examples, log, non-finite policy, and stopping."""

import math
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from cd4lm.config import TERMINATED, require
from cd4lm.training.nonfinite import save_reproducer
from cd4lm.training.order import RunOrder
from cd4lm.training.run_log import RunLog
from cd4lm.training.throughput import forward_flops, matmul_rate, memory_gb

SKIPPED = "skipped_steps"  # key of the log entry that a skipped step leaves


class RunTrainer(Trainer):
    """transformers' Trainer with one look at the numbers per optimiser step, before the weights change.

    folder: where training_log.jsonl and reproducers go (default: the checkpoints' folder). max_skipped_steps: steps
    with a loss or gradient that is not finite to leave out before one stops the run with FloatingPointError.
    max_steps must be set: the order of the examples is that of the whole run (RunOrder). SIGTERM saves a checkpoint
    and exits with status 143 at the end of the step.
    """

    def __init__(self, *args, folder: Path | None = None, max_skipped_steps: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        require(self.args.max_steps > 0, "the trainer needs max_steps, the optimiser steps of the whole run")
        require(
            max_skipped_steps == 0 or not self.is_deepspeed_enabled,
            f"max_skipped_steps={max_skipped_steps}: DeepSpeed steps before its gradient can be seen, so use 0 or DDP",
        )
        self.folder = Path(self.args.output_dir if folder is None else folder)
        # The Trainer sets it at its first step; a loss may be asked for before, as by cd4lm.training.nonfinite.
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.max_skipped_steps = max_skipped_steps
        self._run_log: RunLog | None = None
        self._batches: list[dict] = []
        self._divisors: torch.Tensor | None = None
        self._means: dict[str, torch.Tensor] = {}
        self._totals: dict[str, torch.Tensor] = {}
        self._window: list[dict[str, float]] = []
        self._grad_norm: torch.Tensor | float | None = None
        self._stop = False
        self._started = time.perf_counter()
        # Trainers of transformers 4 and 5 hand the norm to nobody, but both ask the accelerator for it.
        clip = self.accelerator.clip_grad_norm_

        def clip_and_remember(*arguments, **options):
            self._grad_norm = clip(*arguments, **options)
            return self._grad_norm

        self.accelerator.clip_grad_norm_ = clip_and_remember
        self.add_callback(_StepEvents(self))

    # What a subclass reports.

    def record(self, name: str, value: torch.Tensor) -> None:
        """Add one micro-batch's share of a value of this step; shares of the processes are averaged."""
        if not self.model_accepts_loss_kwargs:
            value = value / self.current_gradient_accumulation_steps
        self._means[name] = self._means[name] + value.detach() if name in self._means else value.detach()

    def count(self, name: str, value: torch.Tensor) -> None:
        """Add to a count of this step, summed over micro-batches and processes."""
        self._totals[name] = self._totals[name] + value if name in self._totals else value

    def step_values(self) -> dict[str, float]:
        """Values of the step that need no reduction, for the log."""
        return {}

    def teacher_passes(self) -> int:
        """Forward passes per step besides the student's own forward and backward."""
        return 0

    # What the Trainer calls.

    def _get_train_sampler(self, train_dataset=None) -> RunOrder:
        data = self.train_dataset if train_dataset is None else train_dataset
        return RunOrder(len(data), self.args.max_steps * self.rows_per_step(), self.args.seed)

    def rows_per_step(self) -> int:
        """Examples of one optimiser step over all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._started = time.perf_counter()
        self._batches, self._divisors = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self._batches, self._divisors

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        # The Trainer has divided it already where losses of micro-batches are averaged.
        self._means["loss"] = self._means["loss"] + loss if "loss" in self._means else loss
        self.count("tokens", inputs["attention_mask"].sum())
        # The Trainer's own sum would stay non-finite for good after a step that is left out.
        return loss if self.max_skipped_steps == 0 else loss.nan_to_num(0.0, 0.0, 0.0)

    def train(self, *args, **kwargs):
        """Trainer.train; a SIGTERM on the way ends the process with status 143 once a checkpoint is saved."""
        previous = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            result = super().train(*args, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, previous)
            if self._run_log is not None:
                self._run_log.close()
        if self._stop and self.state.global_step < self.state.max_steps:
            if self.is_world_process_zero():
                print(
                    f"stopped by SIGTERM: checkpoint of step {self.state.global_step} saved in {self.args.output_dir}; "
                    "run the same command again to resume",
                    file=sys.stderr,
                )
            self.accelerator.wait_for_everyone()  # the first process to end may take down one that still saves
            sys.exit(TERMINATED)
        return result

    def _ask_to_stop(self, number, frame) -> None:
        self._stop = True  # one request may come several times: to the process, its group, and from its launcher

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """Add the means of the steps since the last log; evaluations go to the run's log as they are."""
        if "loss" in logs:
            names = self._window[0] if self._window else {}
            means = {name: sum(step[name] for step in self._window) / len(self._window) for name in names}
            self._window.clear()
            # Not the Trainer's own loss and norm: the norm is the last step's alone, and skipped steps have none.
            logs = {name: value for name, value in logs.items() if name not in ("loss", "grad_norm")} | means
        elif self._run_log is not None:
            self._run_log.write(self.state.global_step, logs)
        super().log(logs, start_time)

    # Once per optimiser step.

    def begin_run(self) -> None:
        """Open the log at the step the run starts from, and measure the device."""
        if self.is_world_process_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._run_log = RunLog(self.folder, self.state.global_step)
        self._rate = matmul_rate(self.args.device, torch.bfloat16 if self.args.bf16 else torch.float32)

    def check_step(self, model) -> None:
        """Gather the step's numbers from every process and act on a loss or gradient that is not finite.

        This is the one place where the host waits for the device, and every process sees the same table.
        """
        norm = self._grad_norm.full_tensor() if isinstance(self._grad_norm, DTensor) else self._grad_norm
        norm = torch.as_tensor(math.nan if norm is None else norm)
        parts = [*self._means.values(), *self._totals.values(), norm, torch.tensor(float(self._stop))]
        row = torch.stack([part.detach().to(self.args.device, torch.float64).reshape(()) for part in parts])
        table = self.accelerator.gather(row[None]).cpu()  # (processes, values)
        means = dict(zip(self._means, table.mean(dim=0).tolist(), strict=False))
        totals = dict(zip(self._totals, table.sum(dim=0).tolist()[len(means) :], strict=False))
        losses = table[:, list(self._means).index("loss")]  # (processes,)
        self._stop = bool(table[:, -1].any())
        self._means.clear(), self._totals.clear()
        # Every process holds the norm of the whole gradient.
        self._step = means | {"grad_norm": table[0, -2].item()} | self.step_values()
        self._step |= self.speed(totals)
        if not (losses.isfinite().all() and table[:, -2].isfinite().all()):
            self.leave_out(model, losses)

    def speed(self, totals: dict[str, float]) -> dict[str, float]:
        """Throughput of the step in tokens/s and as a share of the measured matrix product rate, and memory."""
        seconds = time.perf_counter() - self._started
        shapes = [tuple(batch["input_ids"].shape) for batch in self._batches]
        scored = totals["scored"] / self.args.world_size / len(shapes)
        passes = 3 + self.teacher_passes()  # a backward costs two forwards
        flops = passes * sum(forward_flops(self.model.config, *shape, scored) for shape in shapes)
        return {
            "tokens_per_second": totals["tokens"] / seconds,
            "matmul_share": flops / seconds / self._rate,
            "memory_gb": memory_gb(self.args.device),
        }

    def leave_out(self, model, losses: torch.Tensor) -> None:
        """Stop at a step that is not finite, naming where it came from, or skip it if that was asked for and counted."""
        step, norm = self.state.global_step + 1, self._step["grad_norm"]
        skipped = sum(SKIPPED in entry for entry in self.state.log_history)
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        what = f"loss is {losses[bad[0]].item()}" if bad else f"grad_norm is {norm}"
        # Only a bad loss has a process of its own: the gradient is already that of all of them.
        ranks = bad or list(range(len(losses)))
        file = self.folder / "nonfinite" / f"step-{step}-rank-{self.args.process_index}.pt"
        if skipped < self.max_skipped_steps:
            model.zero_grad(set_to_none=True)  # an optimizer leaves parameters without a gradient alone
            self.log({SKIPPED: skipped + 1})
            if self.is_world_process_zero():
                print(
                    f"step {step} skipped ({what}): {skipped + 1} of {self.max_skipped_steps} allowed", file=sys.stderr
                )
            return
        if self.args.process_index in ranks:
            save_reproducer(file, step, self.args.seed, self._batches, self._divisors, losses.tolist())
        # Gathering also waits until every file is written: the first process to end takes the others down.
        ids = gather_object([[i for batch in self._batches for i in batch["example_id"].tolist()]])
        raise FloatingPointError(
            f"{what} at step {step} on rank {', '.join(map(str, ranks))}, examples {[i for r in ranks for i in ids[r]]}: "
            f"see python -m cd4lm.training.nonfinite {file.parent}/step-{step}-rank-{ranks[0]}.pt; lower the learning "
            f"rate, or resume from the last checkpoint in {self.args.output_dir}"
        )

    def end_step(self) -> None:
        """Write the step's line; the Trainer has counted it by now."""
        self.state.epoch = self.state.global_step * self.rows_per_step() / len(self.train_dataset)
        finite = all(map(math.isfinite, self._step.values()))
        if finite:
            self._window.append(self._step)
        if self._run_log is not None and finite:
            rate = {"learning_rate": self._get_learning_rate(), "epoch": self.state.epoch}
            self._run_log.write(self.state.global_step, self._step | rate)


class _StepEvents(TrainerCallback):
    """Calls the trainer back at the places of a step that have no method of their own."""

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin_run()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trainer.check_step(model)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.end_step()
        if self.trainer._stop:
            control.should_save = control.should_training_stop = True
