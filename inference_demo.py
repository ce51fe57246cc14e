"""Watch an answer form under confidence-adaptive decoding.

python inference_demo.py                       # the embedded student, or the teacher until it is trained
python inference_demo.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python inference_demo.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --confidence_threshold 0.9
python inference_demo.py --steps 40            # a fixed budget instead of CAD
python inference_demo.py --steps 40 --compare_threshold 0.9 --trace trace.html     # both on one page, step by step
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cd4lm.config import exit_with_message, require
from cd4lm.decoding.command_line import Answerer, parser_of
from cd4lm.decoding.options import SETTINGS, DecodingOptions
from cd4lm.io import check_writable, write_text

EXAMPLE = "tom has 7 apples . buys 3 . gives 2 . how many ?"


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, leave_out=("infill", "stop_at_eos"))
    parser.add_argument("--prompt", help="the question; asked for if left out")
    group = parser.add_argument_group("trace", "a page that shows how the answer formed, with a second run if asked")
    group.add_argument("--trace", type=Path, metavar="FILE", help="write the page, one self-contained .html file")
    group.add_argument("--compare_model_path", type=Path, metavar="DIR", help="second run: this checkpoint")
    group.add_argument("--compare_steps", type=int, metavar="N", help="second run: this fixed number of steps")
    group.add_argument("--compare_threshold", type=float, metavar="X", help="second run: CAD at this threshold")
    return parser.parse_args()


def runs_of(arguments: argparse.Namespace) -> list[tuple[Path, DecodingOptions]]:
    """Checkpoint and options of the run, and of the one to compare with: what --compare_... does not say is the same."""
    options = DecodingOptions.of_arguments(arguments)
    path, steps, threshold = arguments.compare_model_path, arguments.compare_steps, arguments.compare_threshold
    runs = [(arguments.model_path, options)]
    if (path, steps, threshold) == (None, None, None):
        return runs
    require(arguments.trace is not None, "--compare_... needs --trace FILE: the two runs are shown on its page")
    require(steps is None or threshold is None, "give --compare_steps or --compare_threshold, not both")
    if steps is not None or threshold is not None:
        policy = {option.name: None for option in fields(options) if option.name not in SETTINGS}
        options = replace(options, **policy | {"steps": steps, "confidence_threshold": threshold})
    return [*runs, (path or arguments.model_path, options)]


def frame(answerer: Answerer, canvas) -> Text:
    """The answer after one step: dots where masked, what the step just committed in bold green, EOS left out."""
    line = Text(f"{canvas.nfe[0].item():4d}  ", style="dim")
    now, ends = canvas.nfe[0].item() - 1, set(answerer.decoder.config.eos_ids)
    rows = (canvas.answer()[0], canvas.masked[0, -canvas.gen_length :], canvas.commit_step[0, -canvas.gen_length :])
    for token, masked, step in zip(*(row.tolist() for row in rows), strict=True):
        if masked:
            line.append("· ", style="dim")
        elif token not in ends:
            line.append(answerer.tokenizer.decode([token]).strip() + " ", style="bold green" if step == now else "")
    return line


def run(answerer: Answerer, question: str, console: Console):
    """Decode and print every step, the answer as it is and its counts; the Generation."""
    prompt = answerer.encode(question)
    console.print(f"{answerer.folder}  {answerer.decoder.name}\nstep  answer", style="dim")
    (g,) = answerer.answers([prompt], on_step=lambda canvas: console.print(frame(answerer, canvas)))
    del answerer.model  # a second run's weights need the room
    length = len(g.tokens)
    print(f"\n{g.text}")  # not by rich, which would expand tabs, drop control characters and break lines
    console.print(
        f"{g.nfe} NFE for {length} tokens before EOS: {length / g.nfe:.2f} tokens per step, "
        f"{length / g.seconds:.1f} tokens/s; committed per step: {g.result.commits[0]}"
    )
    return g


def write_trace(file: Path, question: str, answerers: list[Answerer], found: list) -> None:
    """The page of one run or of two side by side."""
    from evaluation.trace_page import run_trace, trace_page

    names = [(str(a.folder), a.decoder.name) for a in answerers]
    if len({folder for folder, _ in names}) == 1:  # what differs comes first
        names = [(decoder, folder) for folder, decoder in names]
    traces = [
        run_trace(*name, g.result, a.tokenizer.decode) for name, g, a in zip(names, found, answerers, strict=True)
    ]
    write_text(file, trace_page(question, traces))


def console() -> Console:
    """The terminal, or the file that the output goes to, to which rich adds colours and nothing else."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def main():
    arguments = parse()
    runs = runs_of(arguments)
    if arguments.trace is not None:
        check_writable("--trace", arguments.trace)
    answerers = [Answerer(*one) for one in runs]
    screen = console()
    question = arguments.prompt
    if question is None:
        try:
            question = screen.input(f"question (Enter for: {EXAMPLE})\n> ").strip() or EXAMPLE
        except EOFError:
            raise ValueError("no question was given: pass --prompt") from None
    found = [run(answerer, question, screen) for answerer in answerers]
    if arguments.trace is not None:
        write_trace(arguments.trace, question, answerers, found)
        screen.print(f"wrote {arguments.trace}: open it in a browser")


if __name__ == "__main__":
    exit_with_message(main)
