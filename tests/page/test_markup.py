"""Words of files stay words: escaping, data blocks, methods in numbers, and citations that agree with CITATION.cff."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from published_sweep import publish_sweep, runs_of

from band.page.data import curves, read_curves
from band.page.markup import el, join, json_block, text
from band.page.methods import CITATIONS, Values, citations, paragraphs
from band.sweep.collect import collect

ROOT = Path(__file__).parents[2]
HOSTILE = """</script><!--<b x="'>&amp;\x1b[31m\x00\u202e"""
ECHARTS = "6.1.0"


def scores_of(run):
    return {"train": {}, "valid": {}, "test": {"bits_per_spike": 0.1}}


class Reader(HTMLParser):
    """Keeps what a browser would make of markup."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


def test_text_and_attributes_are_read_back_as_they_were_with_control_characters_shown():
    read = Reader(el("p", HOSTILE, title=HOSTILE, hidden=None, open=True))
    visible = HOSTILE.replace("\x1b", "\\x1b").replace("\x00", "\\x00").replace("\u202e", "\\u202e")
    assert read.tags == [("p", {"title": visible, "open": None})] and read.words == visible
    assert join("<", el("i", ">"), [1, None]) == "&lt;<i>&gt;</i>1" and text(el("b")) == "<b></b>"


def test_data_can_end_no_block_and_comes_back_as_it_was():
    value = {"k": [HOSTILE, 1.5, None, True], HOSTILE: "\u2028"}
    block = json_block("data", value)
    inner = block[block.index(">") + 1 : block.rindex("<")]
    assert not set("<>&") & set(inner) and json.loads(inner) == value
    with pytest.raises(ValueError, match="JSON"):
        json_block("data", float("nan"))


def test_curves_are_thinned_to_their_ends_and_share_epochs(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(seeds=2), scores=scores_of, epochs=700)
    found = curves(collect(folder).runs)
    assert len(found["epochs"]) == 1 and len(found["epochs"][0]) == 60
    assert found["epochs"][0][0] == 0 and found["epochs"][0][-1] == 699
    assert found["runs"][0][3] == [None] * 60  # LFADS has no decoder of its own
    assert read_curves(tmp_path / "missing.csv") == ((), [[], [], []])


def test_methods_have_the_numbers_of_the_runs(tmp_path):
    settings = [{"hyper.lr": rate, "arch.gen_dim": 77} for rate in (0.001, 0.004)]
    runs = collect(publish_sweep(tmp_path / "s", runs_of(settings=settings, seeds=3), scores=scores_of)).runs
    shapes = {"train": {"encod_data": [90, 50, 31]}, "valid": {"encod_data": [30, 50, 31]}}
    dataset = {**runs[0].dataset, "shapes": shapes}
    words = " ".join(paragraphs(runs, [dataset], has_lineage=False))
    for number in (
        "120 trials of 50 bins and 31 neurons", "80 trials trained, 20 chose and 20 tested", "generator of 77 gated",
        "step size 0.001 or 0.004", "with weight 1", "12 runs, 3 seeds", "after 700 epochs", "clipped at norm 200",
    ):  # fmt: skip
        assert number in words
    named = [citation.words.split(",")[0] for citation in citations(runs, has_lineage=False)]
    assert named[:3] == ["Pandarinath", "Kudryashova", "Keshtkaran"]


def test_many_values_are_told_by_their_ends(tmp_path):
    settings = [{"hyper.lr": 0.001 * n} for n in range(1, 10)]
    runs = collect(publish_sweep(tmp_path / "s", runs_of(settings=settings), scores=scores_of)).runs
    assert Values(runs)("hyper.lr") == "9 values from 0.001 to 0.009"


def test_what_is_cited_has_the_titles_of_citation_cff():
    titles = re.findall(r'^    title: "(.*)"$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    cited = " ".join(citation.words for citation in CITATIONS.values())
    assert len(titles) >= 4 and all(title in cited for title in titles)


def test_the_plotting_library_is_the_release_that_it_says_and_comes_with_its_licence():
    folder = files("band.page") / "assets"
    script = (folder / "echarts.min.js").read_text()
    assert hashlib.sha256(script.encode()).hexdigest() == (
        "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
    )
    assert f'version="{ECHARTS}"' in script or f'"{ECHARTS}"' in script
    assert "</script" not in script.lower() and "Apache License" in (folder / "echarts.LICENSE").read_text()
