"""Muon for matrices and AdamW for the rest, as one optimizer that a scheduler and a checkpoint can treat as one."""

import torch


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on the matrices inside `blocks`, torch.optim.AdamW on embeddings, head and norms."""

    def __init__(self, model: torch.nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float = 0.0):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if ".blocks." in name and p.ndim == 2]
        others = [p for name, p in named if not (".blocks." in name and p.ndim == 2)]
        self.parts = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="original"),
            torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=weight_decay),
        ]
        super().__init__([p for _, p in named], {})
        # Schedulers write lr into these very dictionaries, so the parts see it.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
