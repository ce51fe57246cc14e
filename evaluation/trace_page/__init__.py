"""A page that shows how one answer formed, from what the decoder returned: one self-contained HTML file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cd4lm.decoding import DecodeResult

PAGE = Path(__file__).parent


@dataclass(frozen=True)
class TokenTrace:
    """A position of the answer: its text, the step that committed it (-1: filled after the end), its confidence then."""

    text: str
    step: int
    confidence: float


@dataclass(frozen=True)
class RunTrace:
    """One decoding of the prompt: what it is called, forward passes, tokens before EOS, and every position."""

    title: str
    subtitle: str
    nfe: int
    length: int
    tokens: list[TokenTrace]


def run_trace(title: str, subtitle: str, result: DecodeResult, text: Callable[[list[int]], str]) -> RunTrace:
    """The trace of the first row of a result; text(tokens) decodes a list of token ids."""
    columns = zip(result.tokens[0].tolist(), result.commit_step[0].tolist(), result.confidence[0].tolist(), strict=True)
    tokens = [TokenTrace(text([token]), step, round(confidence, 6)) for token, step, confidence in columns]
    return RunTrace(title, subtitle, result.nfe[0].item(), result.lengths[0].item(), tokens)


def script_safe(data: object) -> str:
    """JSON that may stand inside a <script> element: no <, > or & of the data is left to end it or to be an entity."""
    text = json.dumps(data)  # ASCII, so U+2028 and U+2029 are escaped too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def trace_page(prompt: str, runs: list[RunTrace]) -> str:
    """The page: template, style and script of trace_page/ with the runs embedded."""
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    # The data goes in last: what is in the prompt must not be taken for a placeholder.
    page = page.replace("%STYLE%", (PAGE / "style.css").read_text(encoding="utf-8").strip())
    page = page.replace("%SCRIPT%", (PAGE / "script.js").read_text(encoding="utf-8").strip())
    return page.replace("%DATA%", script_safe({"prompt": prompt, "runs": [asdict(run) for run in runs]}))
