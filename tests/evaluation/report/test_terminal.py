"""The papers' table: columns, depths, means, what is not comparable; the plain table."""

import pytest

from puma.data.layout import TASKS_IN_ORDER
from puma.evaluation.report.terminal import (
    confusion_text,
    figures,
    incomparable,
    is_mbeir,
    mean_of,
    paper_table,
    plain_table,
    published_rows,
    relabelled,
    spread_table,
)


def full(queries=100_000, pool=6_000_000):
    """Figures that tell task, depth and pool apart: 0.001 * place, + 0.1 at 10, + 0.5 in the global pool."""
    tables = {}
    for place, task in enumerate(TASKS_IN_ORDER):
        tables[task.label] = {
            "queries": queries,
            "pool": pool,
            "hit_rate@5": place / 1000,
            "hit_rate@10": 0.1 + place / 1000,
        }
        tables[task.label]["global"] = {
            "queries": queries, "pool": pool, "hit_rate@5": 0.5 + place / 1000, "hit_rate@10": 0.6 + place / 1000,
        }  # fmt: skip
    return tables


def cells(line):
    return [float(cell) for cell in line.split("  ", 1)[1].split()]


def test_depths_and_pools_are_the_papers():
    for pool, base in (("local", 0.0), ("global", 50.0)):
        found = figures(full(), pool)
        assert list(found) == [task.label for task in TASKS_IN_ORDER]
        for place, task in enumerate(TASKS_IN_ORDER):
            ten = 10.0 if task.dataset in ("fashion200k", "fashioniq") else 0.0
            assert found[task.label] == pytest.approx(base + ten + place / 10)


def test_the_table_has_every_row_and_column_in_order():
    text = paper_table(full(), "local", "ours", chance=full())
    lines = text.splitlines()
    heads = next(line for line in lines if line.split()[:2] == ["VN", "COCO"]).split()
    printed = "VN COCO F200K WebQA EDIS WebQA VN COCO F200K NIGHTS OVEN InfoS FIQ CIRR OVEN InfoS mean"
    assert " ".join(heads) == printed
    depths = next(line for line in lines if line.split()[:1] == ["R@5"]).split()
    assert [place for place, depth in enumerate(depths) if depth == "R@10"] == [2, 8, 12]
    puma = next(line for line in lines if line.startswith("PUMA"))
    assert cells(puma) == [
        35.7, 79.5, 25.8, 86.2, 58.2, 78.4, 35.2, 90.1, 29.0, 31.4, 52.7, 48.3, 30.6, 49.9, 74.0, 65.2, 54.4,
    ]  # fmt: skip
    ours = next(line for line in lines if line.startswith("ours"))
    shown = [round(value, 1) for value in figures(full(), "local").values()]
    assert cells(ours) == [*shown, pytest.approx(sum(shown) / 16, abs=0.06)]
    assert sum(line.startswith("chance") for line in lines) == 1
    assert lines.index(puma) < lines.index(ours)
    assert {len(line) for line in lines if line.startswith(("PUMA", "ours", "CLIP-L", "---"))} == {len(puma)}
    for number, source in enumerate(("LamRA", "Pyserini", "PUMA", "U-MARVEL"), start=1):
        assert any(line.startswith(f"[{number}] {source}") for line in lines)
    assert f"PUMA (<4B) [{3}]" in puma
    assert "not comparable" not in text


def test_what_is_missing_is_a_dash_and_has_no_mean():
    tables = full()
    del tables["edis_task2"]
    ours = next(line for line in paper_table(tables, "local", "ours").splitlines() if line.startswith("ours"))
    assert ours.split()[5] == "-"
    assert ours.split()[-1] == "-"
    assert mean_of([1.0, None]) is None
    assert mean_of([]) is None
    assert mean_of([1.0, 2.0]) == 1.5


def test_short_files_and_other_splits_are_not_comparable():
    assert incomparable(full(), "local", "test") == incomparable(full(), "global", "test") == []
    (reason,) = incomparable(full(pool=5_000_000), "global", "test")
    assert "visualnews_task0 (pool 5,000,000, published about 5600 thousand)" in reason
    assert "and 13 more" in reason
    assert incomparable(full(pool=5_000_000), "local", "test") == []
    reasons = incomparable({"cirr_task7": full(queries=3)["cirr_task7"]}, "local", "val")
    assert reasons == [
        "the published figures are of the test split, ours of val",
        "fewer records than as published: cirr_task7 (queries 3, published about 4 thousand)",
    ]
    assert "not comparable: the published" in paper_table(full(), "local", "ours", split="val")


def test_one_data_set_gets_its_labels_back():
    tables = {"0": {"queries": 1}, "3": {"queries": 1}}
    assert list(relabelled(tables, "mscoco")) == ["mscoco_task0", "mscoco_task3"]
    assert relabelled(tables, "openpics") is tables
    assert relabelled(tables, None) is tables
    assert is_mbeir(relabelled(tables, "mscoco"))
    assert not is_mbeir(tables)


def test_the_plain_table_keeps_chance_in_brackets():
    table = {"queries": 4, "pool": 12, "hit_rate@1": 0.25, "hit_rate@5": 0.5, "hit_rate@10": 1.0, "recall@10": 0.75}
    base = table | {"hit_rate@1": 0.125}
    lines = plain_table({"0": {"global": table}}, {"0": {"global": base}}, "global").splitlines()
    assert lines[0] == "global pools (percent; chance in brackets)"
    assert lines[1].split() == ["task", "pool", "queries", "hit@1", "hit@5", "hit@10", "recall@10"]
    assert lines[2].split() == [
        "0",
        "12",
        "4",
        "25.0",
        "(12.5)",
        "50.0",
        "(50.0)",
        "100.0",
        "(100.0)",
        "75.0",
        "(75.0)",
    ]
    assert len(plain_table({"0": {"global": table}}, {}, "local").splitlines()) == 2


def test_spreads_are_shown_where_there_are_any():
    assert spread_table(full(), "local") == ""
    tables = full()
    tables["cirr_task7"]["instructions"] = {"count": 4, "hit_rate@5": {"min": 0.1, "mean": 0.2, "max": 0.4}}
    lines = spread_table(tables, "local").splitlines()
    assert lines[-1].split() == ["cirr_task7", "hit_rate@5", "10.0", "20.0", "40.0"]
    assert len(lines) == 3


def test_published_rows_are_plain():
    found = published_rows(["global"])
    assert {row["pool"] for row in found} == {"global"}
    assert set(found[0]) == {"system", "pool", "source", "mean", "figures"}
    assert list(found[0]["figures"]) == [task.label for task in TASKS_IN_ORDER]


def test_what_is_found_first_is_told_in_percent():
    table = {"confusion": {"text": 0.75, "image": 0.25}}
    text = confusion_text({"0": {"global": table}}, "global")
    assert text.splitlines()[-1].split() == ["0", "image", "75.0", "25.0", "75.0"]
    assert confusion_text({"0": {}}, "global") == ""
