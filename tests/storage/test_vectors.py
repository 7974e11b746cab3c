"""The store of vectors under construction: whole after any kill, written by several, refused to others."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from puma.errors import InputError, StorageError
from puma.storage.vectors import NoRoomError, VectorStore, remove_abandoned

WITH = {"model": "a"}


def rows(part, count=3, dim=4):
    return np.random.default_rng(part).normal(size=(count, dim)).astype(np.float32)


def test_parts_are_found_again_in_their_places(tmp_path):
    with VectorStore(tmp_path / "s", WITH) as store:
        group = store.group("queries", 8, 4)
        group.write(2, 6, rows(2, 2), "two")
        group.write(0, 0, rows(0), "zero", [(1, "broken")])
        assert group.run == 1
    with VectorStore(tmp_path / "s", WITH) as store:
        assert store.kept_rows() == 5
        group = store.group("queries", 8, 4)
        assert group.run == 2
        assert {part: found.digest for part, found in group.finished.items()} == {0: "zero", 2: "two"}
        assert group.finished[0].faults == ((1, "broken"),)
        whole = group.matrix()
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(whole, np.concatenate([rows(0), np.zeros((3, 4)), rows(2, 2)]))
        store.remove()
    assert not (tmp_path / "s").exists()


def test_a_line_cut_short_counts_for_nothing_and_hides_nothing(tmp_path):
    with VectorStore(tmp_path, WITH) as store:
        group = store.group("g", 9, 4)
        group.write(0, 0, rows(0), "zero")
        group.write(1, 3, rows(1), "one")
    log = tmp_path / "g" / "done.0"
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        log.write_bytes(whole[:length])
        with VectorStore(tmp_path, WITH) as store:
            group = store.group("g", 9, 4)
            assert set(group.finished) == ({0} if length >= first else set())
            group.write(2, 6, rows(2), "two")
            group.reload()
            # The cut line may have lacked its last byte only: then its rows are on disk, and it counts.
            complete = {0} if length >= first - 1 else set()
            assert set(group.finished) - {1} == complete | {2}
            assert (1 in group.finished) == (length == len(whole) - 1)


def test_a_part_made_again_counts_as_missing_until_it_is_whole(tmp_path, monkeypatch):
    with VectorStore(tmp_path, WITH) as store:
        store.group("g", 3, 4).write(0, 0, rows(0), "old")
    with VectorStore(tmp_path, WITH) as store:
        group = store.group("g", 3, 4)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            group._mark(0, 0, None, ())  # what precedes the rows; then the process is killed
    with VectorStore(tmp_path, WITH) as store:
        group = store.group("g", 3, 4)
        assert not group.finished
        assert group.run == 3
        group.write(0, 0, rows(1), "new")
    with VectorStore(tmp_path, WITH) as store:
        assert store.group("g", 3, 4).finished[0].digest == "new"
        assert store.kept_rows() == 3


def test_two_processes_write_into_one_matrix(tmp_path):
    with VectorStore(tmp_path, WITH) as store, VectorStore(tmp_path, WITH, process=1) as other:
        mine, theirs = store.group("g", 6, 4), other.group("g", 6, 4)
        theirs.write(1, 3, rows(1), "one", [(4, "gone")])
        mine.write(0, 0, rows(0), "zero")
        mine.reload()
        assert mine.finished[1].faults == ((4, "gone"),)
        np.testing.assert_array_equal(mine.matrix(), np.concatenate([rows(0), rows(1)]))


def test_what_is_another_runs_is_refused(tmp_path):
    with VectorStore(tmp_path, WITH), pytest.raises(InputError, match="another run is at work"):
        VectorStore(tmp_path, WITH).open()
    with pytest.raises(InputError, match=r"another run \(dtype, model differ\)"):
        VectorStore(tmp_path, {"model": "b", "dtype": "x"}).open()
    with VectorStore(tmp_path, WITH):  # the refused one has let go of the lock
        pass
    assert VectorStore.below(tmp_path, "e", WITH).folder == VectorStore.below(tmp_path, "e", dict(WITH)).folder
    assert VectorStore.below(tmp_path, "e", WITH).folder != VectorStore.below(tmp_path, "e", {"model": "b"}).folder


def test_what_was_abandoned_is_removed_and_nothing_else(tmp_path):
    stores = {name: VectorStore(tmp_path / name, WITH) for name in ("old", "held", "new")}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for store in stores.values():
        with store:
            store.group("g", 3, 4).write(0, 0, rows(0), "zero")
    for name in ("old", "held", "other"):
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (0, 0))
    with stores["held"]:
        for path in (tmp_path / "held").rglob("*"):
            os.utime(path, (0, 0))
        assert remove_abandoned(tmp_path) == [tmp_path / "old"]
    assert {path.name for path in tmp_path.iterdir()} == {"held", "new", "other"}
    assert remove_abandoned(tmp_path / "gone") == []


def test_without_room_nothing_is_begun(tmp_path):
    with VectorStore(tmp_path, WITH) as store, pytest.raises(NoRoomError, match=r"bytes of vectors.*--work"):
        store.group("g", 2**40, 2**10)
    assert issubclass(NoRoomError, StorageError)


def test_wrong_shapes_are_refused(tmp_path):
    with VectorStore(tmp_path, WITH) as store:
        group = store.group("g", 3, 4)
        with pytest.raises(ValueError, match="rows must be"):
            group.write(0, 1, rows(0), "x")
        with pytest.raises(ValueError, match="rows must be"):
            group.write(0, 0, rows(0, dim=5), "x")
        assert store.group("empty", 0, 4).matrix().shape == (0, 4)


WRITER = """
import sys
import numpy as np
from puma.storage.vectors import VectorStore
with VectorStore({folder!r}, {{}}) as store:
    group = store.group("g", 3 * 500, 64)
    for part in range(500):
        if part not in group.finished:
            group.write(part, 3 * part, np.full((3, 64), part + 1, np.float32), str(part))
        print(part, flush=True)
"""


def test_killed_at_any_moment_every_finished_part_is_whole(tmp_path):
    seen = 0
    for kill_after in (3, 20, 60, 130):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER.format(folder=str(tmp_path / "s"))], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= kill_after:
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with VectorStore(tmp_path / "s", {}) as store:
            group = store.group("g", 3 * 500, 64)
            assert len(group.finished) >= max(seen, kill_after)
            seen = len(group.finished)
            for part in group.finished:
                assert (group.matrix()[3 * part : 3 * part + 3] == part + 1).all()
    assert json.loads((tmp_path / "s" / "made-with.json").read_text()) == {}
