"""One content from several rows and files: every row's fields and every path are kept, found and shown, and a file
that is read again replaces what it gave before."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from puma.search import Searcher
from support.encoders import ToyEncoder


@pytest.fixture
def searcher(tmp_path):
    return Searcher(ToyEncoder(), tmp_path / "index")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (255, shade, 255 - shade)).save(path)
    return path


def add(searcher, *paths, **options):
    return searcher.add_paths(paths, progress=False, **options)


def found(searcher, key, value):
    return searcher.search("red", where={"type": "eq", "key": key, "value": value})


def payloads(searcher):
    """Every payload in the index, by id."""
    return {row.id: [row.payload, *row.other_payloads] for row in searcher.index.page(100)}


@pytest.mark.parametrize("size", [1, 256])
@pytest.mark.parametrize("split", [False, True])
def test_two_rows_of_one_text_keep_their_fields(searcher, tmp_path, size, split):
    rows = [{"text": "red shoe", "brand": "A"}, {"text": "red shoe", "brand": "B"}, {"text": "red shoe", "brand": "A"}]
    paths = (
        [lines(tmp_path / f"{n}.jsonl", row) for n, row in enumerate(rows)]
        if split
        else [lines(tmp_path / "a.jsonl", *rows)]
    )
    added = add(searcher, *paths, batch_size=size)
    assert (added.embedded, added.repeated, added.places, searcher.encoder.calls) == (1, 2, 1 + split, 1)
    for brand, other in ("AB", "BA"):
        hits = found(searcher, "brand", brand)
        assert [(hit.payload["brand"], [more["brand"] for more in hit.other_payloads]) for hit in hits] == [
            (brand, [other])
        ]
    again = add(searcher, *paths, batch_size=size)
    assert (again.embedded, again.places, again.updated, again.deleted) == (0, 0, 0, 0)
    assert len(payloads(searcher).popitem()[1]) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_table_and_the_folder_of_its_images_give_one_item_with_both(searcher, tmp_path, order, runs):
    cat = image(tmp_path / "a" / "cat.png", 3)
    owners = lines(tmp_path / "owners.jsonl", {"image": "a/cat.png", "owner": "ann"})
    both = [[cat.parent, owners][place] for place in order]
    for paths in [both] if runs == 1 else [[path] for path in both]:
        add(searcher, *paths)
    assert [hit.payload["owner"] for hit in found(searcher, "owner", "ann")] == ["ann"]
    (item,) = payloads(searcher).values()
    own = {"image", "folder", "width", "height"}
    assert sorted(map(set, item), key=len) == [own, own | {"owner"}]


def test_the_same_image_in_two_folders_shows_both_paths_until_one_is_gone(searcher, tmp_path):
    one = image(tmp_path / "a" / "cat.png", 3)
    (tmp_path / "b").mkdir()
    two = tmp_path / "b" / "copy.png"
    shutil.copy(one, two)
    added = add(searcher, tmp_path / "a", tmp_path / "b")
    assert (added.embedded, added.repeated, added.places) == (1, 1, 1)
    (hit,) = searcher.search("red", modality="image")
    assert [hit.payload["image"], *(more["image"] for more in hit.other_payloads)] == [str(one), str(two)]
    one.unlink()
    assert add(searcher, tmp_path / "a", sync=True, allow_empty=True).deleted == 0
    assert payloads(searcher).popitem()[1] == [{"image": str(two), "folder": str(two.parent), "width": 8, "height": 8}]


def test_rows_with_ids_of_their_own_keep_each_files_fields_too(searcher, tmp_path):
    one = lines(tmp_path / "1.jsonl", {"id": "p", "text": "red", "shop": 1})
    two = lines(tmp_path / "2.jsonl", {"id": "p", "text": "red", "shop": 2})
    add(searcher, one)
    add(searcher, two)
    assert len(found(searcher, "shop", 1)) == len(found(searcher, "shop", 2)) == 1


def test_a_row_whose_fields_changed_replaces_them_and_its_neighbour_keeps_its_own(searcher, tmp_path):
    rows = [{"text": "red shoe", "brand": "A"}, {"text": "red shoe", "brand": "B"}]
    shop, other = lines(tmp_path / "shop.jsonl", *rows), lines(tmp_path / "other.jsonl", rows[0])
    add(searcher, shop)
    lines(shop, {"text": "red shoe", "brand": "C"}, rows[1])
    added = add(searcher, shop)
    assert (added.embedded, added.updated, added.places) == (0, 1, 0)
    assert [len(found(searcher, "brand", brand)) for brand in "ABC"] == [0, 1, 1]
    add(searcher, other)
    lines(shop, {"brand": "C", "text": "red shoe"})  # the order of keys is no difference
    added = add(searcher, shop)
    assert (added.updated, added.places) == (0, 0)
    assert [len(found(searcher, "brand", brand)) for brand in "ABC"] == [1, 0, 1]
    assert searcher.index.verify() == []


def test_direct_items_without_ids_keep_every_payload_and_with_ids_replace_theirs(searcher):
    added = searcher.add(["red shoe", "red shoe"], payloads=[{"brand": "A"}, {"brand": "B"}])
    assert (added.embedded, added.repeated, added.places) == (1, 1, 1)
    searcher.add(["red shoe"], payloads=[{"brand": "C"}])
    assert [len(found(searcher, "brand", brand)) for brand in "ABC"] == [1, 1, 1]
    searcher.add(["red hat"], ids=["h"], payloads=[{"brand": "D"}])
    assert searcher.add(["red hat"], ids=["h"], payloads=[{"brand": "E"}]).updated == 1
    assert [len(found(searcher, "brand", brand)) for brand in "DE"] == [0, 1]


def paths_of(searcher):
    return [Path(payload["image"]).name for some in payloads(searcher).values() for payload in some]


def test_an_overwritten_image_is_found_by_its_new_content_only(searcher, tmp_path):
    image(tmp_path / "c" / "chelsea.png", 1)
    add(searcher, tmp_path / "c")
    image(tmp_path / "c" / "chelsea.png", 99)
    added = add(searcher, tmp_path / "c")
    assert (added.embedded, added.deleted, paths_of(searcher)) == (1, 1, ["chelsea.png"])
    image(tmp_path / "c" / "more.png", 1)
    shutil.copy(tmp_path / "c" / "more.png", tmp_path / "c" / "chelsea.png")
    added = add(searcher, tmp_path / "c" / "chelsea.png")
    assert (added.embedded, added.deleted, paths_of(searcher)) == (1, 1, ["chelsea.png"])


def test_a_list_that_is_read_again_replaces_what_it_gave_and_spares_what_is_elsewhere(searcher, tmp_path):
    one = lines(tmp_path / "1.jsonl", {"text": "red"}, {"text": "blue"}, {"text": "green"})
    lines(tmp_path / "2.jsonl", {"text": "blue"})
    add(searcher, one, tmp_path / "2.jsonl")
    lines(one, {"text": "red"})
    assert add(searcher, one).deleted == 1
    assert sorted(row.payload["text"] for row in searcher.index.page(9)) == ["blue", "red"]
    one.write_text("")  # emptied, or not written to its end: nothing goes without --sync
    added = add(searcher, one)
    assert (added.deleted, added.kept, len(searcher.index)) == (0, 1, 2)


def test_a_file_that_cannot_be_read_now_keeps_what_it_gave(searcher, tmp_path):
    path = image(tmp_path / "c" / "a.png", 1)
    add(searcher, path)
    path.write_bytes(path.read_bytes()[:40])
    added = add(searcher, path)
    assert (added.deleted, added.kept, len(searcher.index)) == (0, 1, 1)
