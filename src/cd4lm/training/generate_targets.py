"""The teacher's own answers to a data set's questions, as targets with fewer modes than the data's."""

from collections.abc import Callable, Sequence

import torch

from cd4lm.data.examples import encode_prompt
from cd4lm.decoding import Decoder, generate
from cd4lm.progress import Progress


def own_answers(
    teacher,
    tokenizer,
    rows: Sequence[dict],
    decoder: Decoder,
    *,
    batch_size: int,
    is_right: Callable[[dict, str], bool] | None,
    first: int = 0,
) -> list[dict]:
    """Rows with `answer` replaced by the teacher's text up to EOS; the order of rows is kept.

    is_right: keep only answers for which it is true, given the row and the text; None keeps all.
    An answer without EOS within the canvas is cut off and is left out in either case. first: place of the first row among
    those of all processes, from which its random numbers are drawn.
    """
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    kept: dict[int, dict] = {}
    ids = range(first, first + len(rows))
    with Progress(len(rows), "teacher's answers", "row") as progress:
        for g in generate(teacher, tokenizer, prompts, decoder, batch_size=batch_size, row_ids=ids):
            if not g.truncated and (is_right is None or is_right(rows[g.index], g.text)):
                kept[g.index] = rows[g.index] | {"answer": g.text}
            progress.add()
    return [kept[i] for i in sorted(kept)]
