"""What the trainers of students share: evaluation by losses and by CAD, and batches of similar length."""

import torch

from cd4lm.training.cad_eval import CADEvaluator
from cd4lm.training.order import LengthGrouped
from cd4lm.training.trainer import RunTrainer

EVALUATION_STEP = -1  # stands in for the step when masks are drawn for evaluation, so that they never change


class StudentTrainer(RunTrainer):
    """RunTrainer for a student; a subclass has the loss. cad_eval: decode validation problems at every evaluation."""

    def __init__(self, *args, cad_eval: CADEvaluator | None = None, group_by_length: bool = False, **kwargs):
        self.group_by_length = group_by_length
        super().__init__(*args, **kwargs)
        self.cad_eval = cad_eval
        self.mask_id = self.model.config.mask_token_id

    def mask_step(self) -> int:
        """The step that masks are drawn for."""
        return self.state.global_step if self.model.training else EVALUATION_STEP

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def evaluation_loop(self, *args, **kwargs):
        """The losses, and with cad_eval what CAD makes of the student as it stands."""
        output = super().evaluation_loop(*args, **kwargs)
        if self.cad_eval is not None:
            output.metrics.update(self.cad_eval.measure(self))
        return output

    def _get_train_sampler(self, train_dataset=None):
        order = super()._get_train_sampler(train_dataset)
        if not self.group_by_length:
            return order
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(example["prompt"]) + len(example["answer"]) for example in dataset]
        return LengthGrouped(order, lengths, self.rows_per_step(), self.args.seed)
