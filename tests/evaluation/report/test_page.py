"""The report: self-contained, escaped, small, whole or absent."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from puma.errors import InputError
from puma.evaluation.report.page import Curve, write_evaluation_report, write_report
from puma.evaluation.report.sheets import Asked, Result, Sheet, Thumbnails, sheet_html
from puma.evaluation.runs import write_run
from puma.items import Item
from support.benchmarks import ordered_images, run_of


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
    image = Item(text=evil, image=tmp_path / "noise.png")
    gone = Item(image=tmp_path / "gone.png")
    rows = [Asked(image, [Result(image, 0.5, True), Result(gone, 0.25)], instruction=evil)] * 20
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
    assert "unreadable image" in page.text
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


def document(model="puma", tables=None, **about):
    named = {"root": "bench", "dataset": "tiny", "split": "test", "instruction": "first"} | about
    spread = {"instructions": {"count": 3, "hit_rate@10": {"min": 0.31, "mean": 0.4, "max": 0.52}}}
    wide = table(0.25, **{"wrong_modality@1": 0.125, "confusion": {"text": 0.125, "image": 0.875, "image,text": 0.0}})
    found = {"0": table(0.5, **{"ndcg@10": 0.45, "mrr@10": 0.35, "global": wide, "headline": "hit_rate@5"} | spread)}
    return {
        "format": 1,
        "model": model,
        "fingerprint": "abc",
        "benchmark": named,
        "tables": tables or found,
        "per_query": {"local": {"0": {"9:1": 1, "9:2": None}}},
    }


def test_an_evaluations_page_has_everything_and_asks_for_nothing(tmp_path):
    root = ordered_images(tmp_path)
    write_run(tmp_path / "runs/task0_test_local.run", run_of(lambda number: {0: 1}.get(number)))
    given = document("<b>puma & co</b>") | {"chance": {"0": table(0.01)}, "machine": "x86, 2 threads"}
    write_evaluation_report(tmp_path / "r.html", given, root, tmp_path / "runs")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    for output in ("<b>puma & co</b> on bench", "each task's first instruction", "abc", "x86, 2 threads"):
        assert output in page.text
    assert "<b>puma" not in text
    assert any("text → image" in row and "50.0|50.0|50.0|50.0|45.0|35.0" in row for row in page.rows)
    assert any(row.startswith("0 text → image|12.5|87.5|0.0|12.5") for row in page.rows)  # modality confusion
    assert any("|3|31.0|40.0|52.0|" in row for row in page.rows)  # over all instructions
    assert '<rect class="c0" width="50.00%"' in text
    assert '<rect class="c1" width="25.00%"' in text
    assert '<line class="mark" x1="1.00%"' in text
    assert "right at once (1 of 8)" in page.text
    assert "nothing right among 10 (7 of 8)" in page.text
    (saved,) = [link for link in page.links if not link.startswith("data:image/webp;base64,")]
    head, data = saved.split("base64,")
    assert head == "data:application/json;"
    assert json.loads(base64.b64decode(data)) == given
    assert "<script" not in text
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_several_documents_stand_side_by_side(tmp_path):
    better = {"0": table(0.75, **{"global": table(0.5)})}
    pair = [document("a"), document("a", better)]
    write_evaluation_report(tmp_path / "r.html", pair, tmp_path)
    page = Page((tmp_path / "r.html").read_text())
    assert any("a|50.0" in row for row in page.rows)
    assert any("a (2)|75.0" in row for row in page.rows)
    assert "a (2), the global pool" in page.text
    assert len(page.links) == 2
    with pytest.raises(InputError, match="of different benchmarks"):
        write_evaluation_report(tmp_path / "r.html", [document(), document(split="val")], tmp_path)
    with pytest.raises(InputError, match="no document"):
        write_evaluation_report(tmp_path / "r.html", [], tmp_path)


def test_m_beirs_labels_keep_their_order_and_show_their_own_figure(tmp_path):
    tables = {
        "visualnews_task0": table(0.5, headline="hit_rate@5", **{"hit_rate@5": 0.4}),
        "fashion200k_task0": table(0.5, headline="hit_rate@10", **{"hit_rate@10": 0.3}),
    }
    write_evaluation_report(tmp_path / "r.html", document(tables=tables, dataset="all"), tmp_path)
    text = (tmp_path / "r.html").read_text()
    labels = re.findall(r'<div class="label">(.*?)</div>', text)
    assert labels == ["visualnews text → image, hit@5", "fashion200k text → image, hit@10"]
    assert re.findall(r'<rect class="c0" width="(.*?)%"', text) == ["40.00", "30.00"]


def test_a_page_without_global_pools_or_runs(tmp_path):
    write_evaluation_report(tmp_path / "r.html", document(tables={"0": table(0.5)}), tmp_path)
    text = Page((tmp_path / "r.html").read_text()).text
    assert "the global pool" not in text
    assert "Queries and what they found" not in text


def test_chance_is_never_the_best(tmp_path):
    worse = {"0": table(0.1)}
    write_report(
        tmp_path / "r.html", title="t", results={"a": worse, "b": {"0": table(0.2)}, "chance": {"0": table(0.9)}}
    )
    text = (tmp_path / "r.html").read_text()
    assert '<td class="best">20.0</td>' in text
    assert '<td class="best">90.0</td>' not in text
