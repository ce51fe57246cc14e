"""Watch a served student answer: every block appears when it is finished.

    vllm serve outputs/tiny_serve/student --served-model-name student
    python examples/watch_blocks.py "tom has 7 apples . buys 3 . gives 2 . how many ?"
    python examples/watch_blocks.py --confidence_threshold 0.7 --users 4 "tom has 7 apples . buys 3 . gives 2 . how many ?"

Needs the packages openai and rich and nothing of this repository: it is any client of an OpenAI endpoint. With several
users the same question is asked that often at once, each answer in a line of its own.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

try:
    import openai
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    sys.exit(f"error: {error.name} is missing: pip install openai rich")

COLOURS = ("cyan", "yellow", "green", "magenta")


class Answer:
    """An answer as it arrives: the pieces, and when each came (seconds after the question)."""

    def __init__(self):
        self.pieces: list[tuple[float, str]] = []
        self.reason: str | None = None

    def text(self) -> Text:
        shown = Text()
        for i, (_, piece) in enumerate(self.pieces):
            shown.append(piece, style=COLOURS[i % len(COLOURS)])
        return shown if self.reason else shown.append(" ...", style="dim")

    def times(self) -> str:
        return " ".join(f"{seconds:.2f}" for seconds, _ in self.pieces)


def follow(client: openai.OpenAI, model: str, question: str, threshold: float | None, answer: Answer) -> None:
    """Ask, and add each piece of the stream to the answer."""
    said = {} if threshold is None else {"extra_body": {"vllm_xargs": {"confidence_threshold": threshold}}}
    start = time.perf_counter()
    messages = [{"role": "user", "content": question}]
    with client.chat.completions.create(model=model, messages=messages, stream=True, **said) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                if choice.delta.content:
                    answer.pieces.append((time.perf_counter() - start, choice.delta.content))
                answer.reason = choice.finish_reason or answer.reason


def table(answers: list[Answer]) -> Table:
    shown = Table("answer, a colour for each block", "seconds", "end", box=None, header_style="dim")
    for answer in answers:
        shown.add_row(answer.text(), answer.times(), answer.reason or "")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--base_url", default="http://127.0.0.1:8000/v1", help="default %(default)s")
    parser.add_argument("--model", help="name at the server; default the first that it has")
    parser.add_argument("--confidence_threshold", type=float, help="default: the checkpoint's")
    parser.add_argument("--users", type=int, default=1, help="ask so often at once")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.base_url, api_key="none", max_retries=0)
    try:
        model = arguments.model or client.models.list().data[0].id
        answers = [Answer() for _ in range(arguments.users)]
        with ThreadPoolExecutor(arguments.users) as pool, Live(console=Console(), refresh_per_second=20) as live:
            ask = [client, model, arguments.question, arguments.confidence_threshold]
            asked = [pool.submit(follow, *ask, answer) for answer in answers]
            while not all(one.done() for one in asked):
                live.update(table(answers))
                time.sleep(0.05)
            live.update(table(answers))
        for one in asked:
            one.result()
    except openai.OpenAIError as error:
        sys.exit(f"error: {arguments.base_url}: {error}")


if __name__ == "__main__":
    main()
