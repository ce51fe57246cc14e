"""What every training run shares: order of examples, checks of each step, log, evaluation, SIGTERM."""

import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from cd4lm.config import TERMINATED, require
from cd4lm.progress import Progress, shown_elsewhere
from cd4lm.training.cad_eval import CADEvaluator
from cd4lm.training.order import LengthGrouped, RunOrder
from cd4lm.training.run_log import RunLog
from cd4lm.training.throughput import forward_flops, matmul_rate, memory_gb

EVALUATION_STEP = -1  # stands in for the step when masks are drawn for evaluation, so that they never change
IDLE_STEPS = 10  # without a gradient before a run says so


def start_worker(seed_worker: Callable[[int], None], number: int) -> None:
    """Let a process that makes rows live on when its group is asked to stop: the run needs it to its next checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    seed_worker(number)


class RunTrainer(Trainer):
    """transformers' Trainer that checks loss and gradient norm before each optimizer step.

    folder: where training_log.jsonl goes (default: the checkpoints' folder). group_by_length: rows of similar length
    share a step. cad_eval: decode validation problems at every evaluation. max_steps must be set: the order of the examples is that of the whole run (RunOrder).
    Raises FloatingPointError at a step whose loss or gradient is not finite, before the weights change. SIGTERM saves a
    checkpoint at the end of the step and exits with status 143.
    """

    def __init__(
        self,
        *args,
        folder: Path | None = None,
        group_by_length: bool = False,
        cad_eval: CADEvaluator | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        require(
            self.args.max_steps > 0, f"max_steps={self.args.max_steps} must be the optimizer steps of the whole run"
        )
        self.folder = Path(self.args.output_dir if folder is None else folder)
        self.group_by_length, self.cad_eval = group_by_length, cad_eval
        self._run_log: RunLog | None = None  # rank 0 has one
        self._means: defaultdict[str, torch.Tensor] = defaultdict(int)
        self._totals: defaultdict[str, torch.Tensor] = defaultdict(int)
        self._window: list[dict[str, float]] = []  # values of the steps since the Trainer's last log
        self._grad_norm: torch.Tensor | float | None = None
        self._stop = False
        self._idle_steps = 0  # in a row, whose gradient is 0
        # The Trainer keeps the norm to itself, but it asks the accelerator for it.
        clip = self.accelerator.clip_grad_norm_

        def clip_and_remember(*arguments, **options):
            self._grad_norm = clip(*arguments, **options)
            return self._grad_norm

        self.accelerator.clip_grad_norm_ = clip_and_remember
        self.add_callback(_StepEvents(self))

    def record(self, name: str, value: torch.Tensor) -> None:
        """Add one micro-batch's share of a value of this step; shares of the processes are averaged."""
        if not self.model_accepts_loss_kwargs:
            value = value / self.args.gradient_accumulation_steps
        self._means[name] += value.detach()

    def count(self, name: str, value: torch.Tensor) -> None:
        """Add to a count of this step, summed over micro-batches and processes."""
        self._totals[name] += value

    def step_values(self) -> dict[str, float]:
        """Values of the step that are the same on every process, for the log."""
        return {}

    def teacher_passes(self) -> int:
        """Forward passes per step besides the student's own forward and backward."""
        return 0

    def _get_train_sampler(self, train_dataset=None) -> RunOrder | LengthGrouped:
        data, step_rows = self.train_dataset if train_dataset is None else train_dataset, self.rows_per_step()
        order = RunOrder(len(data), self.args.max_steps * step_rows, self.args.seed)
        if not self.group_by_length:
            return order

        def length(i: int) -> int:
            return len(data[i]["prompt"]) + len(data[i]["answer"])

        return LengthGrouped(order, length, step_rows, self.args.seed)

    def rows_per_step(self) -> int:
        """Examples of one optimizer step over all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        own = getattr(loader, "base_dataloader", loader)  # accelerate wraps the one that starts the processes
        own.worker_init_fn = partial(start_worker, own.worker_init_fn)
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._started = time.perf_counter()
        self._batches, divisors = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self._batches, divisors

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._means["loss"] += loss  # divided already by the Trainer where micro-batches are averaged
        self.count("tokens", inputs["attention_mask"].sum())
        return loss

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
            saved = f"checkpoint of step {self.state.global_step} saved in {self.args.output_dir}"
            if self.is_world_process_zero():
                print(f"stopped by SIGTERM: {saved}; run the same command again to resume", file=sys.stderr)
            self.accelerator.wait_for_everyone()  # the first process that ends may take down one that still saves
            sys.exit(TERMINATED)
        return result

    def _ask_to_stop(self, number, frame) -> None:
        self._stop = True  # the launcher, its process group and the process may each be signalled: one request

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """Log the means of the steps since the last log, in place of the Trainer's own loss and last gradient norm."""
        if "loss" in logs:
            logs = logs | {name: sum(s[name] for s in self._window) / len(self._window) for name in self._step}
            self._window.clear()
        elif self._run_log is not None:
            self._run_log.write(self.state.global_step, logs)
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def evaluation_loop(self, *args, **kwargs):
        """The losses, and with cad_eval what CAD makes of the model as it stands."""
        output = super().evaluation_loop(*args, **kwargs)
        if self.cad_eval is not None:
            output.metrics.update(self.cad_eval.measure(self))
        return output

    def begin_run(self) -> None:
        """Open the log at the step the run starts from, and measure the device."""
        if self.is_world_process_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._run_log = RunLog(self.folder, self.state.global_step)
        self._rate = matmul_rate(self.args.device, torch.bfloat16 if self.args.bf16 else torch.float32)

    def check_step(self) -> None:
        """Gather the values of the step from every process, and stop if a loss or the gradient is not finite.

        Only here does the host wait for the device, once per step; every process gets the same table.
        """
        norm = self._grad_norm.full_tensor() if isinstance(self._grad_norm, DTensor) else self._grad_norm
        norm = torch.as_tensor(math.nan if norm is None else norm)
        parts = [*self._means.values(), *self._totals.values(), norm, torch.tensor(float(self._stop))]
        row = torch.stack([part.detach().to(self.args.device, torch.float64).reshape(()) for part in parts])
        table = self.accelerator.gather(row[None]).cpu()  # (processes, values)
        means = dict(zip(self._means, table.mean(dim=0).tolist(), strict=False))
        totals = dict(zip(self._totals, table.sum(dim=0).tolist()[len(means) :], strict=False))
        losses = table[:, list(means).index("loss")]  # (processes,)
        grad_norm = table[0, -2].item()  # of the whole gradient, so the same on every process
        self._stop = bool(table[:, -1].any())
        self._means.clear(), self._totals.clear()
        self._step = means | {"grad_norm": grad_norm} | self.step_values() | self.speed(totals)
        if not (losses.isfinite().all() and math.isfinite(grad_norm)):
            self.stop_at(losses, grad_norm)

    def speed(self, totals: dict[str, float]) -> dict[str, float]:
        """Throughput of the step in tokens/s and as a share of the measured matrix product rate, and memory."""
        seconds = time.perf_counter() - self._started
        shapes = [tuple(batch["input_ids"].shape) for batch in self._batches]
        scored = totals["scored"] / self.args.world_size / len(shapes)
        flops = sum(forward_flops(self.model.config, *shape, scored) for shape in shapes)
        flops *= 3 + self.teacher_passes()  # a backward costs two forwards
        return {
            "tokens_per_second": totals["tokens"] / seconds,
            "matmul_share": flops / seconds / self._rate,
            "memory_gb": memory_gb(self.args.device),
        }

    def stop_at(self, losses: torch.Tensor, grad_norm: float) -> None:
        """Raise FloatingPointError for this step, naming the ranks whose loss is not finite and their examples.

        losses: (processes,). Only a loss has a rank of its own: the gradient is that of all of them.
        """
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        what = f"loss is {losses[bad[0]].item()}" if bad else f"grad_norm is {grad_norm}"
        ranks = bad or list(range(len(losses)))
        ids = gather_object([[i for batch in self._batches for i in batch["example_id"].tolist()]])
        raise FloatingPointError(
            f"{what} at step {self.state.global_step + 1} on rank {', '.join(map(str, ranks))}, examples "
            f"{[i for rank in ranks for i in ids[rank]]}: lower the learning rate, or resume from the last checkpoint "
            f"in {self.args.output_dir}"
        )

    def end_step(self) -> None:
        """Write the step's line; the Trainer has counted it by now."""
        self.state.epoch = self.state.global_step * self.rows_per_step() / len(self.train_dataset)
        self._window.append(self._step)
        self._idle_steps = 0 if self._step["grad_norm"] else self._idle_steps + 1
        if self._idle_steps == IDLE_STEPS and self.is_world_process_zero():
            why = "nothing is learnt (are all losses above dscd.clamp, which cuts their gradient off?)"
            print(f"the gradient has been exactly 0 for {IDLE_STEPS} steps: {why}", file=sys.stderr)
        if self._run_log is not None:
            rate = {"learning_rate": self._get_learning_rate(), "epoch": self.state.epoch}
            self._run_log.write(self.state.global_step, self._step | rate)


class _StepEvents(TrainerCallback):
    """Calls the trainer at the points of a step that have no method of their own."""

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer
        self.progress: Progress | None = None  # where another command shows it; else the Trainer has a bar of its own

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin_run()
        if shown_elsewhere() and self.trainer.is_world_process_zero():
            self.progress = Progress(state.max_steps, "steps", "step", initial=state.global_step)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.check_step()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.end_step()
        if self.progress is not None:
            self.progress.add(1, f"step {state.global_step} of {state.max_steps}")
        if self.trainer._stop:
            control.should_save = control.should_training_stop = True


class StudentTrainer(RunTrainer):
    """RunTrainer for a student; a subclass has the loss.

    teacher: the frozen model that runs beside the student; None if there is none, or if the student carries adapters and
    is, with those off and the attention `teacher_attention` (None = its own), its own teacher.
    """

    def __init__(
        self,
        *args,
        teacher: torch.nn.Module | None = None,
        teacher_attention: str | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.teacher_attention = teacher_attention
        self.mask_id = self.model.config.mask_token_id
        self.teacher = None if teacher is None else teacher.to(self.args.device).eval().requires_grad_(False)
        # In forward passes: gradients of the activations, and of the weights where those are trained.
        self.backward_passes = 2 if all(p.requires_grad for p in self.model.parameters()) else 1

    def whose(self) -> dict:
        """forward_both's arguments for the teacher."""
        return {"frozen": self.teacher, "adapted": self.model, "attention": self.teacher_attention}

    def block_offset(self, inputs: dict, block_length: int) -> torch.Tensor | int:
        """Positions of the answer's first block that the prompt takes: (B,) on a grid from position 0, else 0."""
        config = self.model.config
        absolute = config.attention == "block_causal" and config.block_grid == "absolute"
        return inputs["prompt_length"] % block_length if absolute else 0

    def head_rows(self, inputs: dict) -> torch.Tensor:
        """At how many positions of each row (B,) the loss reads the head in a state."""
        raise NotImplementedError

    def mask_step(self) -> int:
        """The step that masks are drawn for."""
        return self.state.global_step if self.model.training else EVALUATION_STEP
