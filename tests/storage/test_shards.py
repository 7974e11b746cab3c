"""Shards on disk: what is appended is read, under any kill, and never under other facts."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from puma.errors import InputError, StorageError
from puma.storage.shards import Shards

FACTS = {"weights": "aa", "prompt": "bb"}


def keys(*numbers):
    return [number.to_bytes(16, "big") for number in numbers]


def rows(*numbers, dim=3):
    return np.array([[number + 0.25 * i for i in range(dim)] for number in numbers], np.float32)


def test_rows_are_read_in_the_order_asked_also_by_another_process_object(tmp_path):
    store = Shards(tmp_path / "s", FACTS, 3)
    assert len(store) == 0
    store.append(keys(1, 2), rows(1, 2))
    reader = Shards(tmp_path / "s", FACTS, 3)
    store.append(keys(3), rows(3))
    assert keys(3)[0] not in reader
    reader.refresh()
    for each in (store, reader):
        assert len(each) == 3
        np.testing.assert_array_equal(each.rows(keys(3, 1, 2, 1)), rows(3, 1, 2, 1).astype(np.float16))
    assert all(isinstance(held, np.memmap) for held in reader._rows.values())
    with pytest.raises(InputError, match="1 of 2 items are not in the store"):
        store.rows(keys(1, 9))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=6))
def test_any_sequence_of_appends_is_a_dictionary(tmp_path_factory, appended):
    """The first row of a key stays, whatever comes later."""
    folder, plain = tmp_path_factory.mktemp("store"), {}
    for turn, numbers in enumerate(appended):
        values = rows(*[100 * turn + number for number in numbers]).reshape(-1, 3)
        Shards(folder, FACTS, 3).append(keys(*numbers), values)
        for number, value in zip(numbers, values, strict=True):
            plain.setdefault(number, value)
    store = Shards(folder, FACTS, 3)
    assert len(store) == len(plain)
    if plain:
        np.testing.assert_array_equal(store.rows(keys(*plain)), np.stack(list(plain.values())).astype(np.float16))


def test_shards_are_plain_safetensors_and_never_written_again(tmp_path):
    store = Shards(tmp_path, FACTS, 3)
    store.append(keys(1, 2), rows(1, 2))
    first = tmp_path / "shard-00000.safetensors"
    before = (first.stat().st_mtime_ns, first.read_bytes())
    Shards(tmp_path, FACTS, 3).append(keys(3), rows(3))
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    held = load_file(first)
    np.testing.assert_array_equal(held["rows"], rows(1, 2).astype(np.float16))
    assert held["keys"].shape == (2, 16)


def test_other_facts_are_refused_by_name(tmp_path):
    Shards(tmp_path, FACTS, 3).append(keys(1), rows(1))
    with pytest.raises(InputError, match=r"other prompt \(there bb, here cc\); give another folder") as caught:
        Shards(tmp_path, {**FACTS, "prompt": "cc"}, 3)
    assert "weights" not in str(caught.value)
    with pytest.raises(InputError, match="length of a row"):
        Shards(tmp_path, FACTS, 4)
    with pytest.raises(InputError, match=r"pixels \(there None, here dd\)"):
        Shards(tmp_path, {**FACTS, "pixels": "dd"}, 3)
    description = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(InputError, match=r"format \(there 99, here 1\)"):
        Shards(tmp_path, FACTS, 3)


def test_a_writer_that_came_second_is_refused_too(tmp_path):
    """Both found an empty folder; the one that writes first names the facts."""
    mine, other = Shards(tmp_path, FACTS, 3), Shards(tmp_path, {**FACTS, "weights": "zz"}, 3)
    mine.append(keys(1), rows(1))
    with pytest.raises(InputError, match="other weights"):
        other.append(keys(2), rows(2))


@pytest.mark.parametrize("left", ["part", "cut", "description", "garbage", "no description"])
def test_what_is_not_whole_is_passed_over_or_named(tmp_path, left):
    store = Shards(tmp_path, FACTS, 3)
    store.append(keys(1), rows(1))
    store.append(keys(2), rows(2))
    last = tmp_path / "shard-00001.safetensors"
    if left == "part":
        (tmp_path / ".shard.x.part").write_bytes(last.read_bytes()[:50])
        again = Shards(tmp_path, FACTS, 3)
        assert len(again) == 2
        again.append(keys(3), rows(3))
        assert not (tmp_path / ".shard.x.part").exists()
        return
    target = tmp_path / "store.json" if "description" in left else last
    if left == "no description":
        target.unlink()
    else:
        target.write_bytes(target.read_bytes()[:-4] if left != "garbage" else b"\x00" * 40)
    with pytest.raises(StorageError, match="remove"):
        Shards(tmp_path, FACTS, 3)
    if target == last:
        last.unlink()  # as the message says
        again = Shards(tmp_path, FACTS, 3)
        assert keys(2)[0] not in again
        again.append(keys(2), rows(2))
        np.testing.assert_array_equal(again.rows(keys(1, 2)), rows(1, 2).astype(np.float16))


def test_numbers_go_on_behind_a_gap(tmp_path):
    store = Shards(tmp_path, FACTS, 3)
    for number in range(3):
        store.append(keys(number), rows(number))
    (tmp_path / "shard-00001.safetensors").unlink()
    again = Shards(tmp_path, FACTS, 3)
    again.append(keys(7), rows(7))
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [
        f"shard-0000{number}.safetensors" for number in (0, 2, 3)
    ]


def test_rows_that_do_not_fit_are_refused(tmp_path):
    store = Shards(tmp_path, FACTS, 3)
    with pytest.raises(InputError, match=r"give \[n, 3\]"):
        store.append(keys(1), rows(1, 2))
    with pytest.raises(InputError, match="keys of 16 bytes"):
        store.append([b"short"], rows(1))
    for value in (np.nan, 1e6):
        with pytest.raises(InputError, match="beyond float16"):
            store.append(keys(1), np.full((1, 3), value))
    assert not list(tmp_path.iterdir())


def test_two_processes_append_without_losing_a_shard(tmp_path):
    code = (
        "import sys, numpy as np; from puma.storage.shards import Shards\n"
        f"s = Shards({str(tmp_path)!r}, {FACTS!r}, 3); a = int(sys.argv[1])\n"
        "for i in range(a, a + 20): s.append([i.to_bytes(16, 'big')], np.full((1, 3), i))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(start)]) for start in (0, 100)]
    assert [child.wait(60) for child in children] == [0, 0]
    store = Shards(tmp_path, FACTS, 3)
    assert len(store) == 40
    assert len(list(tmp_path.glob("shard-*"))) == 40
    wanted = [*range(20), *range(100, 120)]
    np.testing.assert_array_equal(store.rows(keys(*wanted))[:, 0], np.array(wanted, np.float16))
