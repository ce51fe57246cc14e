"""The teacher's own answers to a data set's questions, as targets with fewer modes than the data's."""

from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode_stream
from cd4lm.settings import FormatConfig


def own_answers(
    teacher,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict],
    form: FormatConfig,
    *,
    block_length: int,
    threshold: float,
    temperature: float,
    batch_size: int,
    seed: int,
    is_right: Callable[[dict, str], bool] | None,
) -> list[dict]:
    """Rows with `answer` replaced by the teacher's (CAD at `threshold`), text up to EOS; the order of rows is kept.

    is_right: keep only answers for which it is true, given the row and the text; None keeps all.
    An answer without EOS within form.answer_length tokens is cut off and is left out in either case.
    """
    config = DecodeConfig(
        mask_id=teacher.config.mask_token_id,
        eos_ids=end_ids(tokenizer),
        gen_length=form.answer_length,
        block_length=block_length,
        temperature=temperature,
        seed=seed,
    )
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"], form.prompt_template)) for row in rows]
    policy = ConfidenceAdaptive(threshold=threshold)
    kept: dict[int, dict] = {}
    with tqdm(total=len(rows), desc="teacher's answers", unit="row") as bar:
        for part in decode_stream(teacher, prompts, policy, config, batch_size=batch_size):
            for i, tokens, length in zip(part.index.tolist(), part.tokens, part.lengths.tolist(), strict=True):
                text = tokenizer.decode(tokens[:length])
                if length < config.gen_length and (is_right is None or is_right(rows[i], text)):
                    kept[i] = rows[i] | {"answer": text}
            bar.update(len(part.index))
    return [kept[i] for i in sorted(kept)]
