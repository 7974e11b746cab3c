"""The report: self-contained, escaped, small, whole or absent."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from puma.errors import InputError
from puma.evaluation.report import Curve, write_report
from puma.evaluation.sheets import Asked, Result, Sheet, Thumbnails, sheet_html
from puma.items import Item


def table(rate, **more):
    rates = {f"hit_rate@{k}": rate for k in (1, 5, 10)} | {"recall@10": rate}
    return {"pool": 500, "queries": 1234} | rates | more


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.rows = [], "", [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "tr" in self.open:
            self.rows[-1] += data + "|"


def test_one_file_with_everything_inside_and_every_text_escaped(tmp_path):
    evil = '<script>alert(1)</script> & "quotes" \' \ud800'
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    picture = Item(text=evil, image=tmp_path / "noise.png")
    gone = Item(image=tmp_path / "gone.png")
    rows = [Asked(picture, [Result(picture, 0.5, True), Result(gone, 0.25)], instruction=evil)] * 20
    write_report(
        tmp_path / "r.html",
        title=evil,
        results={evil: {"0": table(0.5)}, "chance": {"0": table(0.1)}},
        curves=[Curve(evil, [0, 1, 2], [3.0, float("nan"), 1.0], plot=evil)],
        sheets=[Sheet(evil, rows)],
        notes=[evil],
        seconds={evil: 61.0},
    )
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert page.links
    assert all(link.startswith("data:image/webp;base64,") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.split("base64,")[0])
    assert "unreadable picture" in page.text
    assert "1 min 01 s" in page.text
    assert len(text) < 20 * 12_000  # noise is the worst a thumbnail can be


def test_the_table_shows_each_system_the_best_and_the_mean(tmp_path):
    results = {
        "trained": {"0": table(0.5, **{"global": table(0.25, **{"wrong_modality@1": 0.125})}), "3": table(0.1)},
        "ridge_baseline": {"0": table(0.4), "3": table(0.2)},
        "chance": {"0": table(0.001)},
    }
    write_report(tmp_path / "r.html", title="t", results=results)
    text = (tmp_path / "r.html").read_text()
    rows = Page(text).rows
    assert any("text → image" in row and "1,234 queries in 500" in row and "trained|50.0|50.0" in row for row in rows)
    assert any(row.startswith("ridge baseline, no LLM|40.0") for row in rows)
    assert any("mean|" in row and "trained|30.0" in row and "chance: over 1 tasks" in row for row in rows)
    assert any("trained|25.0|25.0|25.0|25.0|12.5|" in row for row in rows)
    assert '<td class="best">50.0</td>' in text
    assert '<td class="best">20.0</td>' in text  # the baseline is marked where it leads
    assert '<td class="best">40.0</td>' not in text


def test_missing_figures_are_a_dash(tmp_path):
    write_report(tmp_path / "r.html", title="t", results={"a": {"0": {"pool": 5, "hit_rate@1": 0.5}}})
    assert any("50.0|–|–|–" in row for row in Page((tmp_path / "r.html").read_text()).rows)
    write_report(tmp_path / "r.html", title="t", results={})


def test_thumbnails_are_small_and_made_once(tmp_path, monkeypatch):
    Image.new("RGB", (4000, 30)).save(tmp_path / "long.png")
    thumbnails = Thumbnails()
    first = thumbnails.uri(Item(image=tmp_path / "long.png"))
    assert len(first) < 1000
    (tmp_path / "long.png").unlink()
    assert thumbnails.uri(Item(image=tmp_path / "long.png")) == first


def test_a_curve_needs_a_value_for_each_step():
    with pytest.raises(InputError, match="2 steps for 1 values"):
        Curve("loss", [1, 2], [0.5])


def test_nothing_is_said_of_what_is_not_judged():
    asked = {"query": Item(text="a"), "results": [Result(Item(text="b"), 0.5)]}
    for judged in (True, False):
        page = sheet_html(Sheet("s", [Asked(**asked, judged=judged)]), Thumbnails())
        assert ("not among the first" in page) is judged
