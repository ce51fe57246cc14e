"""Watch an answer form under confidence-adaptive decoding.

python inference_demo.py                       # the embedded student, or the teacher until it is trained
python inference_demo.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python inference_demo.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --confidence_threshold 0.9
python inference_demo.py --steps 40            # a fixed budget instead of CAD
"""

import argparse

from rich.console import Console
from rich.text import Text

from scripts.common import Generator, add_dynamic_options, add_generation_options, threshold_of
from src.config import exit_with_message
from src.decoding import ConfidenceAdaptive, FixedSteps

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", help="the question; asked for if left out")
    add_generation_options(parser)
    add_dynamic_options(parser)
    parser.add_argument("--steps", type=int, help="decode with this fixed budget instead of CAD")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    generator = Generator(arguments)
    question = arguments.prompt
    if question is None:
        question = console.input(f"question (Enter for: {EXAMPLE})\n> ").strip() or EXAMPLE
    if arguments.steps is None:
        policy = ConfidenceAdaptive(
            threshold=threshold_of(arguments),
            min_tokens=arguments.min_tokens_per_step,
            max_tokens=arguments.max_tokens_per_step,
            max_steps_per_block=arguments.max_steps_per_block,
        )
    else:
        policy = FixedSteps(steps=arguments.steps)
    policy.check(generator.config)
    prompt = generator.encode(question)
    console.print(f"{arguments.model_path}  {policy}\nstep  answer", style="dim")
    result, seconds = generator.run([prompt], policy, on_step=lambda canvas: console.print(frame(generator, canvas)))
    length, nfe = result.lengths[0].item(), result.nfe[0].item()
    console.print(f"\n{generator.text(result.tokens[0, :length])}", style="bold")
    console.print(
        f"{nfe} NFE for {length} tokens before EOS: {length / nfe:.2f} tokens per step, "
        f"{length / seconds:.1f} tokens/s; committed per step: {result.commits[0]}"
    )


if __name__ == "__main__":
    exit_with_message(main)
