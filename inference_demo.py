"""Watch an answer form under confidence-adaptive decoding.

python inference_demo.py                       # the embedded student, or the teacher until it is trained
python inference_demo.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python inference_demo.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --confidence_threshold 0.9
python inference_demo.py --steps 40            # a fixed budget instead of CAD
python inference_demo.py --steps 40 --compare_threshold 0.9 --trace trace.html     # both on one page, step by step
"""

import argparse
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cd4lm.config import exit_with_message, require
from cd4lm.decoding import DecodeResult
from cd4lm.decoding.policy_options import PolicyOptions, describe
from evaluation.trace import run_trace, trace_page
from scripts.common import (
    Generator,
    add_dynamic_options,
    add_generation_options,
    check_output,
    policy_of,
    write_text,
)

EXAMPLE = "tom has 7 apples . buys 3 . gives 2 . how many ?"


def frame(generator: Generator, canvas) -> Text:
    """The answer after one step: dots where masked, what the step just committed in bold green, EOS left out."""
    line = Text(f"{canvas.nfe[0].item():4d}  ", style="dim")
    now = canvas.nfe[0].item() - 1
    ends = set(generator.config.eos_ids)
    for token, masked, step in zip(
        canvas.answer()[0].tolist(), canvas.masked[0].tolist(), canvas.commit_step[0].tolist(), strict=True
    ):
        if masked:
            line.append("· ", style="dim")
        elif token not in ends:
            line.append(generator.text([token]).strip() + " ", style="bold green" if step == now else "")
    return line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", help="the question; asked for if left out")
    add_generation_options(parser)
    add_dynamic_options(parser)
    parser.add_argument("--steps", type=int, help="decode with this fixed budget instead of CAD")
    group = parser.add_argument_group(
        "trace", "a page that shows the answer forming, with a second run beside it if asked"
    )
    group.add_argument("--trace", type=Path, metavar="FILE", help="write the page, one self-contained .html file")
    group.add_argument("--compare_model_path", type=Path, metavar="DIR", help="second run: this checkpoint")
    group.add_argument("--compare_steps", type=int, metavar="N", help="second run: this fixed budget")
    group.add_argument("--compare_threshold", type=float, metavar="X", help="second run: CAD at this threshold")
    return parser.parse_args()


def second_run(arguments: argparse.Namespace) -> argparse.Namespace | None:
    """The command line of the run to compare with, or None: what --compare_... does not say is as in the first."""
    given = [vars(arguments)[name] for name in ("compare_model_path", "compare_steps", "compare_threshold")]
    if given == [None] * 3:
        return None
    require(arguments.trace is not None, "--compare_... needs --trace FILE: the two runs are shown on its page")
    path, steps, threshold = given
    require(steps is None or threshold is None, "give --compare_steps or --compare_threshold, not both")
    changes = {"model_path": path or arguments.model_path}
    if steps is not None or threshold is not None:
        changes |= {field.name: None for field in fields(PolicyOptions)}
        changes |= {"steps": steps, "confidence_threshold": threshold}
    return argparse.Namespace(**(vars(arguments) | changes))


def run(arguments: argparse.Namespace, generator: Generator, question: str, console: Console) -> DecodeResult:
    """Decode and print every step, the answer and its counts."""
    policy = policy_of(arguments)
    prompt = generator.encode(question)
    console.print(f"{arguments.model_path}  {describe(policy)}\nstep  answer", style="dim", markup=False)
    result, seconds = generator.run([prompt], policy, on_step=lambda canvas: console.print(frame(generator, canvas)))
    del generator.model  # a second run's weights need the room
    length, nfe = result.lengths[0].item(), result.nfe[0].item()
    console.print(f"\n{generator.text(result.tokens[0, :length])}", style="bold", markup=False)
    console.print(
        f"{nfe} NFE for {length} tokens before EOS: {length / nfe:.2f} tokens per step, "
        f"{length / seconds:.1f} tokens/s; committed per step: {result.commits[0]}"
    )
    return result


def main():
    arguments = parse()
    other = second_run(arguments)
    if arguments.trace is not None:
        check_output("--trace", arguments.trace)
    runs = [(a, Generator(a)) for a in (arguments, other) if a is not None]
    for its_arguments, generator in runs:
        generator.check(policy_of(its_arguments))
    console = Console(highlight=False)
    question = arguments.prompt
    if question is None:
        try:
            question = console.input(f"question (Enter for: {EXAMPLE})\n> ").strip() or EXAMPLE
        except EOFError:
            raise ValueError("no question was given: pass --prompt") from None
    results = [run(*one, question, console) for one in runs]
    if arguments.trace is not None:
        names = [(str(a.model_path), describe(policy_of(a))) for a, _ in runs]
        if len({model for model, _ in names}) == 1:  # what differs comes first
            names = [(policy, model) for model, policy in names]
        traces = [
            run_trace(*name, result, generator.text)
            for name, result, (_, generator) in zip(names, results, runs, strict=True)
        ]
        write_text(arguments.trace, trace_page(question, traces))
        console.print(f"wrote {arguments.trace}: open it in a browser", markup=False)


if __name__ == "__main__":
    exit_with_message(main)
