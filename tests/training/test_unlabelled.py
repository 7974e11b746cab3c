"""Items without pairs: which there are, how they share rows, and what a teacher of texts leaves out."""

from pathlib import Path

import pytest

from mini.test_quickstart import benchmark  # noqa: F401
from puma.data import mbeir
from puma.errors import DataError
from puma.items import Item
from puma.training.unlabelled import item_rows, read_items, teachable


def test_every_item_is_read_once_and_none_is_left_out(benchmark):  # noqa: F811
    items = read_items(benchmark)
    # 36 images, their 36 names (as queries of task 0 and in the pools), 36 wordings of task 1's queries
    assert len(items) == 108
    assert len({(item.text, str(item.image)) for item in items}) == 108
    assert sum(item.image is not None for item in items) == 36


def test_items_without_a_label_are_read_and_faulty_lines_are_listed(tmp_path):
    pool = [mbeir.Candidate(f"20:{n}", f"text {n}", None, "text") for n in range(1, 5)]
    queries = [mbeir.Query("20:9", "a  text", None, "text", (), (), 1)]  # no positives: no pair can be made of it
    mbeir.write_queries(mbeir.query_path(tmp_path, "tiny", 1, "train"), queries)
    path = mbeir.pool_path(tmp_path, "tiny", 1, "train")
    mbeir.write_pool(path, pool)
    mbeir.write_instructions(mbeir.instructions_path(tmp_path), [("text", "text", "tiny", 20, ["Find it."])])
    assert [item.text for item in read_items(tmp_path)] == ["text 1", "text 2", "text 3", "text 4", "a  text"]
    with open(path, "a") as stream:
        stream.write("no json\n")
    faults = []
    assert len(read_items(tmp_path, faults=faults)) == 5
    assert len(faults) == 1
    with pytest.raises(DataError, match=r"no json|JSON"):
        read_items(tmp_path, strict=True)


def test_rows_hold_two_items_of_one_modality_and_every_item():
    items = [Item(text=f"t{n}") for n in range(5)] + [Item(image=Path(f"{n}.png")) for n in range(4)]
    rows = item_rows(items, seed=1)
    assert len(rows) == 3 + 2
    assert all(row.query.modality == row.candidate.modality for row in rows)
    assert {row.task for row in rows} == {row.target_modality for row in rows}
    held = [item for row in rows for item in (row.query, row.candidate)]
    assert {str(item.text or item.image) for item in held} == {str(item.text or item.image) for item in items}
    assert len(held) == 10, "one of the odd modality comes twice"
    assert len({row.query_id for row in rows}) == len({row.candidate_id for row in rows}) == 5
    assert all(row.query != row.candidate and row.instruction is None for row in rows)
    assert item_rows(items, seed=1) == rows
    assert item_rows(items, seed=2) != rows
    with pytest.raises(DataError, match="no item that the teacher can teach"):
        item_rows([])


def test_a_teacher_of_texts_teaches_texts_and_captioned_images():
    text, seen, unseen = Item(text="a"), Item(image=Path("a.png")), Item(image=Path("b.png"))
    both, pixels = Item(text="a", image=Path("a.png")), Item(image=b"bytes")
    assert teachable([text, seen, unseen, both, pixels], {"a.png"}) == [text, seen]
