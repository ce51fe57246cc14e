"""The page of a report in a real browser: everything is inside the one file, and it shows the report and a trace."""

import pytest

from evaluation.html_page import html_page
from evaluation.trace_page import trace_page
from tests.conftest import ROOT
from tests.evaluation.test_trace_page import runs

pytestmark = pytest.mark.slow

REPORT = """# What <b>this</b> brings & more

- one 1.2 [1.0, 1.4]

![a plot](frontier.png)

## Every run

| run | accuracy |
| --- | --- |
| teacher + cad | 88.0 [83.8, 91.2] |
| a \\| b | 1 |
"""


@pytest.mark.parametrize("width", [420, 1200])
def test_one_file_with_everything(browser, tmp_path, width):
    file = tmp_path / "report.html"
    shown = [run for run, _ in runs()]
    file.write_text(html_page(REPORT, ROOT / "docs/tiny", trace_page("7 + 3 ?", shown)), encoding="utf-8")
    page, seen, requests = browser.new_page(viewport={"width": width, "height": 800}), [], []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_timeout(200)
    assert seen == [] and all(url.startswith(("data:", "about:")) or url == file.as_uri() for url in requests)
    assert page.title() == "What <b>this</b> brings & more"
    assert page.locator("img").evaluate("e => e.complete && e.naturalWidth > 100")
    assert page.locator("td").all_inner_texts() == ["teacher + cad", "88.0 [83.8, 91.2]", "a | b", "1"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    titles = page.locator("h2").all_inner_texts()
    assert titles == ["Two answers forming", "Every run"]
    inside = page.frame_locator("#trace")
    last = str(max(run.nfe for run in shown))
    assert inside.locator("#prompt").inner_text() == "7 + 3 ?" and inside.locator("#step").input_value() == last
    inside.locator("#play").click()
    page.wait_for_timeout(500)
    assert int(inside.locator("#step").input_value()) < int(last)
    heights = "e => [e.clientHeight, e.contentDocument.documentElement.scrollHeight]"
    frame, content = page.locator("#trace").evaluate(heights)
    assert frame >= content  # no bar of its own
    page.close()
