"""An answer as it forms: one panel of the terminal, drawn again after every step of decoding."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import HORIZONTALS
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from cd4lm.io import ROOT

# Confidence when committed, in nines as on the trace page; colours that can be read on dark and on light ground.
COLOURS = ((0.999, "color(32)"), (0.99, "color(37)"), (0.9, "color(136)"), (0.0, "color(166)"))
DOT, UNFINISHED, LONGEST = "·", "�", 4  # bytes of a character
PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}  # of control characters


def shown_path(folder: str | Path) -> str:
    """A folder as a reader knows it: inside the repository by its place there."""
    path = Path(folder)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else str(folder)


def colour_of(confidence: float) -> str:
    return next(colour for least, colour in COLOURS if confidence >= least)


def pieces(decode: Callable[[list[int]], str], tokens: Sequence[int], masked: Sequence[bool]) -> list[str | None]:
    """What each token adds to the text before it; None where masked.

    A token that ends inside a character adds nothing, the one that completes it adds the character.
    """
    found: list[str | None] = []
    before: list[int] = []  # the tokens of the last whole piece, so that a space between two pieces is kept
    begun: list[int] = []  # those of a character that is not complete
    for i, (token, hidden) in enumerate(zip(tokens, masked, strict=True)):
        if hidden:
            found.append(None)
            before, begun = [], []
            continue
        if not before and not begun and i > 0 and UNFINISHED not in decode([token]):
            before = [token]  # after a mask the token itself stands for the text before it
        text = decode([*before, *begun, token])
        begun.append(token)
        if text.endswith(UNFINISHED) and len(begun) < LONGEST:
            found.append("")
            continue
        found.append(text[len(decode(before)) if before else 0 :])
        before, begun = begun, []
    return found


class AnswerPanel:
    """Shows one answer: call `on_step` with the canvas after every step, `close` with the finished Generation.

    On a terminal a panel is drawn in place, at most one step in `pace` seconds; anywhere else, or with show_steps, lines
    are printed: with show_steps one for each step. Time spent here does not count as decoding.
    """

    def __init__(self, answerer, console: Console, *, pace: float, show_steps: bool):
        self.answerer, self.console, self.pace, self.show_steps = answerer, console, pace, show_steps
        self.decode, config = answerer.tokenizer.decode, answerer.decoder.config
        self.ends, self.stops = set(config.eos_ids), config.stop_at_eos
        self.dot = f" {DOT}" if " " in self.decode([config.mask_id] * 2) else DOT  # tokens that spaces join
        self.title = f"{shown_path(answerer.folder)} · {answerer.decoder.name}"
        self.in_place = console.is_terminal and not console.is_dumb_terminal and not show_steps
        self.live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if self.in_place else None
        self.drawing, self.drawn, self.start = 0.0, 0.0, time.perf_counter()

    def __enter__(self):
        if self.in_place:
            self.live.start()
        else:
            self.console.print(self.title, style="dim")
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        if self.in_place:
            self.live.stop()

    def on_step(self, canvas) -> None:
        """Draw the canvas of a single row."""
        G = canvas.gen_length
        columns = [canvas.answer()[0]] + [
            part[0, -G:] for part in (canvas.masked, canvas.commit_step, canvas.confidence)
        ]
        tokens, masked, steps, confidence = (column.tolist() for column in columns)  # waits for the device
        entered = time.perf_counter()
        nfe = canvas.nfe[0].item()
        if self.in_place or self.show_steps:
            text, committed = self.text(tokens, masked, steps, confidence, nfe - 1)
            if self.in_place:
                counts = self.counts(nfe, committed, entered - self.start - self.drawing)
                self.live.update(self.panel(text, counts), refresh=True)
                time.sleep(max(0.0, self.drawn + self.pace - time.perf_counter()))
                self.drawn = time.perf_counter()
            else:
                self.console.print(Text(f"{nfe:4d} ", style="dim") + text)
        self.drawing += time.perf_counter() - entered

    def text(self, tokens, masked, steps, confidence, now: int) -> tuple[Text, int]:
        """The answer in colours, what step `now` committed in bold, up to its first EOS; how many tokens it has."""
        end = next((i for i, t in enumerate(tokens) if t in self.ends and not masked[i]), None) if self.stops else None
        shown, committed = Text(), 0
        for i, piece in enumerate(pieces(self.decode, tokens[:end], masked[:end])):
            if piece is None:
                shown.append(self.dot, style="dim")
            elif tokens[i] not in self.ends:
                committed += 1
                style = colour_of(confidence[i]) + (" bold underline" if steps[i] == now else "")
                word = piece.translate(PICTURES)
                shown.append(word[: len(word) - len(word.lstrip())])
                shown.append(word.lstrip(), style=style)
        return shown, committed

    def counts(self, nfe: int, committed: int, seconds: float) -> str:
        return (
            f"{nfe} NFE · {committed} tokens · {committed / max(nfe, 1):.2f} tokens per forward · "
            f"{committed / max(seconds, 1e-9):.1f} tokens/s"
        )

    def panel(self, text: Text, counts: str) -> Panel:
        """As much of the text as the terminal has lines for: where it has grown to."""
        lines = text.wrap(self.console, max(self.console.width - 4, 1))
        grown = max((i for i, line in enumerate(lines) if line.plain.strip(f"{DOT} ")), default=0)
        room = max(self.console.height - 4, 1)
        first = max(0, min(grown + 3, len(lines)) - room)
        return self.framed(Text("\n").join(lines[first : first + room]), counts)

    def framed(self, text: Text, counts: str) -> Panel:
        """Between two rules, so that the answer can be copied without a border."""
        return Panel(
            text,
            title=Text(self.title),
            subtitle=Text(counts),
            box=HORIZONTALS,
            title_align="left",
            subtitle_align="left",
        )

    def close(self, g) -> None:
        """The finished answer and its counts."""
        result, length = g.result, len(g.tokens)
        counts = self.counts(g.nfe, length, g.seconds - self.drawing)
        if self.in_place:
            columns = (result.tokens, result.commit_step, result.confidence)
            tokens, steps, confidence = (column[0, :length].tolist() for column in columns)
            text, _ = self.text(tokens, [False] * length, steps, confidence, -1)
            self.live.vertical_overflow = "visible"  # the last drawing may be longer than the terminal
            self.live.update(self.framed(text, counts), refresh=True)
        else:
            print(g.text)  # not by rich, which would expand tabs, drop control characters and break lines
            self.console.print(counts, style="dim")
        if g.truncated:
            self.console.print("the answer fills the canvas without an end: raise --gen_length", style="dim")


def legend() -> Text:
    """What the colours mean."""
    line = Text().append("confidence when committed:", style="dim")
    for least, colour in reversed(COLOURS):
        line.append(f"  {'below 0.9' if least == 0 else f'{least:g}+'}", style=colour)
    return line.append("   underlined: just committed", style="dim")
