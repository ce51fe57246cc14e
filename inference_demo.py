"""Ask a question and watch the answer form under confidence-adaptive decoding.

python inference_demo.py                       # asks for questions, one after another
python inference_demo.py --prompt "tom has 7 apples . buys 3 . gives 2 . wins 4 . how many ?"
python inference_demo.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --confidence_threshold 0.9
python inference_demo.py --steps 40            # a fixed budget instead of CAD
python inference_demo.py --steps 40 --compare_threshold 0.9 --trace trace.html     # both on one page, step by step
"""

import argparse
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from cd4lm.config import CommandParser, exit_with_message, one_line, require
from cd4lm.decoding.command_line import Answerer, default_checkpoint
from cd4lm.decoding.options import SETTINGS, DecodingOptions
from cd4lm.decoding.panel import AnswerPanel, legend, shown_path
from cd4lm.io import check_writable, write_text

EXAMPLE = "tom has 7 apples . buys 3 . gives 2 . wins 4 . how many ?"
LEAVE = ("exit", "quit", "/exit", "/quit")


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    ask = parser.add_argument_group("ask", "a question, or several: without --prompt it asks until exit or Ctrl-D")
    ask.add_argument("--prompt", metavar="TEXT", help="the question")
    ask.add_argument(
        "--model_path",
        type=Path,
        metavar="DIR",
        default=default_checkpoint(),
        help="checkpoint folder or hub name (default: the student in outputs/tiny, else the bundled teacher)",
    )
    ask.add_argument("--chat", action="store_true", help="ask for further questions after --prompt's answer")
    ask.add_argument(
        "--turns",
        type=int,
        metavar="N",
        help="earlier questions that the model sees (default: as many as fit; 0 for the embedded models)",
    )
    watch = parser.add_argument_group(
        "watch", "on a terminal the answer forms in place; elsewhere the finished one is printed"
    )
    watch.add_argument("--show_steps", action="store_true", help="print a line for every step instead")
    watch.add_argument(
        "--pace",
        type=float,
        metavar="X",
        default=0.05,
        help="least seconds from one step to the next on a terminal (0.05); counts leave it out",
    )
    watch.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a page that plays the answer, one self-contained .html file"
    )
    compare = parser.add_argument_group(
        "compare", "a second run of the same question, beside the first on the page of --trace"
    )
    compare.add_argument("--compare_model_path", type=Path, metavar="DIR", help="with this checkpoint")
    compare.add_argument("--compare_steps", type=int, metavar="N", help="with this fixed number of steps")
    compare.add_argument("--compare_threshold", type=float, metavar="X", help="with CAD at this threshold")
    DecodingOptions.add_arguments(parser, leave_out=("infill", "stop_at_eos"))
    arguments = parser.parse_args()
    require(0 <= arguments.pace < 60, f"--pace {arguments.pace} must lie in [0, 60) seconds")
    require(arguments.turns is None or arguments.turns >= 0, f"--turns {arguments.turns} must be 0 or above")
    return arguments


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


class Conversation:
    """Questions to a checkpoint, each seen with those before it where the model has turns."""

    def __init__(self, answerer: Answerer, screen: Console, arguments: argparse.Namespace):
        self.answerer, self.screen = answerer, screen
        self.how = {"pace": arguments.pace, "show_steps": arguments.show_steps}
        self.turns = arguments.turns
        self.messages: list[dict] = []

    def ask(self, question: str):
        """Show the answer as it forms; the Generation. Raises ValueError for a question that cannot be decoded."""
        prompt = self.encode(question)
        if "model" not in vars(self.answerer):
            with self.screen.status(f"reading {shown_path(self.answerer.folder)}"):
                _ = self.answerer.model
        with AnswerPanel(self.answerer, self.screen, **self.how) as panel:
            (g,) = self.answerer.answers([prompt], on_step=panel.on_step)
            panel.close(g)
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": g.text}]
        return g

    def encode(self, question: str):
        """The question after as many earlier turns as are asked for and fit."""
        turns = self.turns if self.turns is not None else len(self.messages) if self.answerer.has_turns else 0
        earlier = self.messages[max(0, len(self.messages) - 2 * turns) :] if turns else []
        while True:
            try:
                return self.answerer.encode(question, earlier)
            except ValueError:
                if not earlier:
                    raise
                earlier = earlier[2:]


def write_trace(file: Path, question: str, answerers: list[Answerer], found: list) -> None:
    """The page of one run or of two side by side."""
    from evaluation.trace_page import run_trace, trace_page

    names = [(shown_path(a.folder), a.decoder.name) for a in answerers]
    if len({folder for folder, _ in names}) == 1:  # what differs comes first
        names = [(decoder, folder) for folder, decoder in names]
    traces = [
        run_trace(*name, g.result, a.tokenizer.decode) for name, g, a in zip(names, found, answerers, strict=True)
    ]
    write_text(file, trace_page(question, traces))


class Demo:
    """The runs of a command line, asked one question after another."""

    def __init__(self, arguments: argparse.Namespace):
        # The terminal, or the file that the output goes to, to which rich adds colours and nothing else.
        self.screen = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.trace, self.stays = arguments.trace, arguments.chat or arguments.prompt is None
        self.answerers = [Answerer(*one) for one in runs_of(arguments)]
        self.conversations = [Conversation(answerer, self.screen, arguments) for answerer in self.answerers]

    def answer(self, question: str) -> None:
        found = []
        for before, conversation in zip([None, *self.answerers], self.conversations, strict=False):
            if before is not None and before.folder == conversation.answerer.folder:
                conversation.answerer.model = before.model
            elif before is not None and not self.stays:
                del before.model  # the second run's weights need the room
            found.append(conversation.ask(question))
        if self.trace is not None:
            write_trace(self.trace, question, self.answerers, found)
            self.screen.print(f"wrote {self.trace}: open it in a browser")

    def read(self, first: bool) -> str | None:
        """The next question; None to leave."""
        told = f"question ({f'Enter alone: {EXAMPLE}' if first else 'exit or Ctrl-D leaves'})\n> "
        try:
            typed = self.screen.input(told if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        return None if typed in LEAVE else typed or (EXAMPLE if first else "")

    def session(self, asked: bool) -> None:
        """Ask until there is no further question. asked: whether one has been answered already."""
        interactive = sys.stdin.isatty()
        if interactive:
            with suppress(ImportError):  # where there is none, on Windows, input() has arrow keys of its own
                import readline  # noqa: F401 - arrow keys and history in input()
        while (question := self.read(first=not asked)) is not None:
            if not question:
                continue
            try:
                self.answer(question)
            except ValueError as error:
                if not interactive:
                    raise
                self.screen.print(f"error: {one_line(error)}")
            except KeyboardInterrupt:
                self.screen.print("stopped")
            asked = True
        require(asked, "no question was given: pass --prompt")


def main():
    arguments = parse()
    if arguments.trace is not None:
        check_writable("--trace", arguments.trace)
    demo = Demo(arguments)
    if demo.screen.is_terminal:
        demo.screen.print(legend())
    if arguments.prompt is not None:
        demo.answer(arguments.prompt)
    if demo.stays:
        demo.session(asked=arguments.prompt is not None)


if __name__ == "__main__":
    exit_with_message(main)
