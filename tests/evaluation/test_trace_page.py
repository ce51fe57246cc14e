"""The trace page in a real browser: what is shown at each step, its colours, its keys, and hostile text."""

from functools import cache
from itertools import cycle

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, FixedSteps, decode
from evaluation.trace_page import run_trace, trace_page
from tests.conftest import random_model

pytestmark = pytest.mark.slow

HOSTILE = "a \"quoted\" </script><script>window.hacked = 1</script> & &amp; <!-- <b> \u2028 'x' %DATA% %SCRIPT% %STYLE% \\u003c"


@cache
def runs() -> list:
    """Two real runs of a random model with many EOS tokens, and text in them that could break a page."""
    texts = ["</script>", "\n", "&amp;", " ", "<b>", '"']
    settings = DecodeConfig(mask_id=59, eos_ids=(57, 3, 12), gen_length=32, block_length=8)
    model, prompt = random_model(), torch.arange(20, 29)
    found = []
    for name, policy in [("fixed", FixedSteps(32)), ("cad", ConfidenceAdaptive(0.35))]:
        result = decode(model, [prompt], policy, settings)
        in_turn = cycle(texts)
        found.append((run_trace(name, f"{policy}", result, lambda _, words=in_turn: next(words)), result))
    return found


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page; at the end there must have been no console message, no error, no request but the file's own."""
    seen, requests, pages = [], [], []

    def opening(prompt=HOSTILE, **options):
        file = tmp_path / "trace.html"
        file.write_text(trace_page(prompt, [run for run, _ in runs()]), encoding="utf-8")
        page = browser.new_page(**options)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        pages.append((page, file.as_uri()))
        return page

    yield opening
    assert seen == []
    assert requests == [uri for _, uri in pages]
    for page, _ in pages:
        page.close()


def classes(page, run: int) -> list[str]:
    return page.eval_on_selector_all(f".run:nth-child({run + 1}) .canvas .token", "all => all.map(e => e.className)")


def colours(page) -> list[str]:
    script = "all => all.map(e => getComputedStyle(e).backgroundColor)"
    return page.eval_on_selector_all(".canvas .token:not(.masked, .tail)", script)


def test_every_step_shows_what_was_committed_by_then(opened):
    page = opened()
    last = max(run.nfe for run, _ in runs())
    assert page.locator("#step").input_value() == str(last)  # it opens on the finished answer
    assert not any("masked" in kind for i in range(2) for kind in classes(page, i))
    page.keyboard.press("Home")
    for step in range(last + 1):
        for i, (run, result) in enumerate(runs()):
            kinds = classes(page, i)
            now, commit = min(step, run.nfe), result.commit_step[0]
            committed = [(0 <= s < now) or (s < 0 and now == run.nfe) for s in commit.tolist()]
            assert ["masked" not in kind for kind in kinds] == committed
            assert ["new" in kind for kind in kinds] == [s == step - 1 and j < run.length for j, s in enumerate(commit)]
            assert [j for j, kind in enumerate(kinds) if "tail" in kind] == [
                j for j in range(run.length, 32) if committed[j]
            ]
            counters = page.locator(f".run:nth-child({i + 1}) dd").all_inner_texts()
            before_eos = sum(committed[: run.length])
            assert counters[0].split()[0] == str(now) and counters[1].split()[0] == str(before_eos)
            assert counters[2] == (f"{before_eos / now:.2f}" if now else "–")
        page.keyboard.press("ArrowRight")
    shown = page.locator(".run:nth-child(1) .canvas .token:not(.tail)").all_inner_texts()
    assert len(shown) == runs()[0][0].length and "·" not in shown


def test_the_slider_and_its_keys(opened):
    page = opened()
    slider = page.locator("#step")
    last = int(slider.get_attribute("max"))
    page.keyboard.press("End")
    assert slider.input_value() == str(last) and page.locator("#at").inner_text() == f"{last} of {last}"
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == str(last - 1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == str(last)
    page.keyboard.press("Home")
    assert set(classes(page, 0)) == {"token masked"}
    slider.fill("3")  # as dragging does
    assert page.locator("#at").inner_text() == f"3 of {last}"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "4"


def test_playing_and_pausing(opened):
    page = opened()
    page.keyboard.press("Space")  # from the end it plays from the start
    page.wait_for_timeout(1500)
    assert 2 <= int(page.locator("#step").input_value()) < int(page.locator("#step").get_attribute("max"))
    assert page.locator("#play").get_attribute("aria-pressed") == "true"
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-pressed") == "false"
    stopped = page.locator("#step").input_value()
    page.wait_for_timeout(800)
    assert page.locator("#step").input_value() == stopped


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(opened, scheme):
    page = opened(color_scheme=scheme)
    page.keyboard.press("End")
    by_confidence = colours(page)
    page.keyboard.press("c")
    assert page.is_checked("input[value=step]")
    by_step = colours(page)
    shown = [(t.confidence, t.step) for run, _ in runs() for t in run.tokens[: run.length]]
    for found, column in ((by_confidence, 0), (by_step, 1)):
        values = [row[column] for row in shown]
        assert len(set(found)) > 3
        assert found[values.index(min(values))] != found[values.index(max(values))]
        for a, b in zip(values, found, strict=True):  # the same value is the same colour
            assert b == found[values.index(a)]
    assert by_confidence != by_step
    page.check("input[value=confidence]")
    assert colours(page) == by_confidence


def test_dark_and_light_differ_and_text_can_be_read(opened):
    """Contrast of token text on its background, WCAG 2: at least 4.5 to 1 in both schemes and both colourings."""
    script = """all => all.map(e => {
      const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
      return [getComputedStyle(e).color, getComputedStyle(e).backgroundColor].map(colour => {
        context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      });
    })"""
    pages = {scheme: opened(color_scheme=scheme) for scheme in ("light", "dark")}
    for page in pages.values():
        page.keyboard.press("End")
        for choice in ("confidence", "step"):
            page.check(f"input[value={choice}]")
            for ink, ground in page.eval_on_selector_all(".canvas .token:not(.tail)", script):
                assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5
    grounds = [page.evaluate("getComputedStyle(document.body).backgroundColor") for page in pages.values()]
    assert grounds[0] != grounds[1]


def test_hostile_text_is_text(opened):
    page = opened()
    assert page.locator("#prompt").evaluate("e => e.textContent") == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator("b").count() == 0
    page.keyboard.press("End")
    words = page.locator(".canvas .token:not(.tail)").all_inner_texts()
    texts = [token.text for run, _ in runs() for token in run.tokens[: run.length]]
    assert words == [{"\n": "⏎", " ": "␣"}.get(text, text) for text in texts]
    assert {"</script>", "&amp;", "\n", " "} <= set(texts)


def test_a_token_says_its_numbers(opened):
    page = opened()
    page.keyboard.press("End")
    page.locator(".run:nth-child(2) .canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    token = runs()[1][0].tokens[1]
    line = page.locator(".run:nth-child(2) .detail").inner_text()
    assert "Position 2" in line and f"pass {token.step + 1}" in line and f"{token.confidence:.4f}" in line


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_out_of_the_page(opened, width):
    page = opened(prompt="x" * 500, viewport={"width": width, "height": 700})
    page.keyboard.press("End")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = [page.locator(f".run:nth-child({i})").bounding_box()["y"] for i in (1, 2)]
    assert (tops[0] == tops[1]) == (width == 1200)  # side by side where there is room
