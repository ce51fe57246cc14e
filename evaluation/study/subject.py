"""What is measured: a model with its tokenizer and the study's problems as token ids."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import DecodeConfig, DecodeResult, decode_stream
from cd4lm.decoding.policies import Policy
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_for_inference
from evaluation.study.settings import StudyConfig, decoding_of


@dataclass(frozen=True)
class Subject:
    """A model ready to be measured."""

    study: StudyConfig
    model: DiffusionLM
    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]

    @classmethod
    def load(cls, study: StudyConfig, checkpoint: Path, rows: list[dict]) -> "Subject":
        return cls(study, *load_for_inference(checkpoint), rows)

    @cached_property
    def prompts(self) -> list[torch.Tensor]:
        return [torch.tensor(encode_prompt(self.tokenizer, row["question"])) for row in self.rows]

    @property
    def mask_id(self) -> int:
        return self.model.config.mask_token_id

    def decoding(self, **changes) -> DecodeConfig:
        """The study's decoding, with the fastest cache that changes no token."""
        return decoding_of(self.study, self.model.config, end_ids(self.tokenizer), **changes)

    def decode(self, count: int, policy: Policy, **changes) -> DecodeResult:
        """Answers to the first `count` problems, with everything the engine tells about them."""
        prompts, config = self.prompts[:count], self.decoding(**changes)
        return DecodeResult.join(
            list(decode_stream(self.model, prompts, policy, config, batch_size=self.study.batch_size))
        )
