"""Fill in the masked words of a text, which a diffusion model reads from both sides.

python scripts/infill.py --prompt "tom has 7 apples . buys 3 . how many ?" --text "7 [MASK] 3 = [MASK] . #### 10"
python scripts/infill.py --model_path /models/LLaDA-8B-Instruct --text "The capital of [MASK:2] is Paris."

[MASK] stands for one token, [MASK:5] for five. --prompt is a question, in the chat template, that the text answers; without
it the text is read as it stands. For bidirectional checkpoints.
"""

import json
import re
from dataclasses import replace

from cd4lm.config import exit_with_message, require
from cd4lm.decoding.command_line import Answerer, parser_of
from cd4lm.decoding.options import DecodingOptions

MASK = re.compile(r"\[MASK(?::(\d+))?\]")


def encode(answerer: Answerer, prompt: str | None, text: str):
    """Token ids (P,) of question and text, and the places of the masks among them."""
    import torch

    mask_id = answerer.model_config.mask_token_id
    ids = [] if prompt is None else answerer.encode(prompt).tolist()
    places, parts = [], MASK.split(text)  # text, count, text, count, ..., text
    for words, count in zip(parts[::2], [*parts[1::2], "0"], strict=True):
        answerer.check_words(words)
        ids += answerer.tokenizer(words, add_special_tokens=False)["input_ids"]
        n = 1 if count is None else int(count)
        places += range(len(ids), len(ids) + n)
        ids += [mask_id] * n
    require(bool(places), f"--text {text!r} has no mask: write [MASK] for each token to fill in")
    return torch.tensor(ids), places


def main():
    parser = parser_of(__doc__, leave_out=("infill", "gen_length", "stop_at_eos", "cache", "refresh_interval"))
    parser.add_argument("--prompt", help="a question that the text answers")
    parser.add_argument("--text", required=True, help="the text, with [MASK] for each token to fill in")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    arguments = parser.parse_args()
    options = DecodingOptions.of_arguments(arguments)
    block = options.block_length or DecodingOptions.stored(arguments.model_path).block_length
    # What stands after the text is decoded last, and not shown: one block, the least there can be.
    answerer = Answerer(arguments.model_path, replace(options, infill=True, cache="none", gen_length=block))
    ids, places = encode(answerer, arguments.prompt, arguments.text)
    (g,) = answerer.answers([ids])
    filled = g.result.prompts[0]
    start = 0 if arguments.prompt is None else len(answerer.encode(arguments.prompt))
    words = [answerer.tokenizer.decode([token]).strip() for token in filled[places].tolist()]
    text = answerer.tokenizer.decode(filled[start:])
    if arguments.json:
        print(json.dumps({"text": text, "filled": words, "nfe": g.nfe}))
    else:
        print(f"{text}\n[{len(places)} tokens filled in: {', '.join(words)}; {g.nfe} NFE]")


if __name__ == "__main__":
    exit_with_message(main)
