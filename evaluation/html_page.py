"""A Markdown report as one self-contained page: its images inside it, and the page of a trace before its first section."""

import base64
import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
<script>
const frame = document.getElementById("trace");
const fit = () => {{ frame.style.height = frame.contentDocument.documentElement.scrollHeight + 4 + "px"; }};
if (frame) {{
  frame.addEventListener("load", fit);
  window.addEventListener("resize", fit);
  fit();
}}
</script>
</body>
</html>
"""
TRACE = '<h2>Two answers forming</h2>\n<iframe id="trace" title="How the answers formed" srcdoc="{}"></iframe>\n'
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def html_page(markdown: str, folder: Path, trace: str | None = None) -> str:
    """The page of a report whose images are files in `folder`; trace: a whole page of evaluation.trace_page."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)
    body = re.sub(r'<img src="([^"]+)"', lambda found: f'<img src="{data_uri(folder / found[1])}"', body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    if trace is not None:
        before, first, after = body.partition("<h2>")
        body = before + TRACE.format(html.escape(trace)) + first + after
    title = re.search(r"^# (.*)$", markdown, re.M)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8").strip()
    return PAGE.format(title=html.escape(title[1] if title else "Report"), style=style, body=body)


def data_uri(file: Path) -> str:
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
