"""What the trace page embeds; the page itself is opened in test_trace_page.py."""

import json
import re

import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from evaluation.trace_page import run_trace, script_safe, trace_page

HOSTILE = "</script> \u2028 'x' \"y\" %DATA% %SCRIPT% <!--"


def test_embedded_json_is_the_data_and_ends_no_script():
    data = {"prompt": HOSTILE, "deep": ["</SCRIPT ", "]]>", "\u2029"]}
    text = script_safe(data)
    assert json.loads(text) == data
    assert not set("<>&\u2028\u2029") & set(text)


def test_the_page_holds_the_run_and_needs_no_other_file(model):
    settings = DecodeConfig(mask_id=59, eos_ids=(57, 3, 12), gen_length=16, block_length=8)
    result = decode(model, [torch.arange(20, 25)], ConfidenceAdaptive(0.5), settings)
    page = trace_page(HOSTILE, [run_trace("a", "b", result, lambda tokens: f"t{tokens[0]}")])
    data = json.loads(re.search(r'<script type="application/json" id="trace">(.*?)</script>', page, re.S)[1])
    assert data["prompt"] == HOSTILE
    (run,) = data["runs"]
    assert (run["nfe"], run["length"]) == (result.nfe.item(), result.lengths.item())
    assert [t["text"] for t in run["tokens"]] == [f"t{t}" for t in result.tokens[0].tolist()]
    assert [t["step"] for t in run["tokens"]] == result.commit_step[0].tolist()
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(", page)
