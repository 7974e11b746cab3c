"""Candidate matrices from files, arrays and passing blocks: the same rows out of each."""

import os

import numpy as np
import pytest

from puma.errors import DataError, InputError
from puma.index.exact import matrices as sources
from puma.index.exact.half import widen
from puma.index.exact.matrices import open_source


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(301, 7)).astype(np.float32)


def everything(rows):
    out = np.empty((rows.count, rows.dim), dtype=np.float32)
    for start in range(0, rows.count, 100):
        stop = min(start + 100, rows.count)
        rows.read(start, stop, out[start:stop])
    return out


def kinds(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "b.npy", matrix[250:])
    raw = np.memmap(tmp_path / "raw", dtype=matrix.dtype, mode="w+", offset=13, shape=matrix.shape)
    raw[:] = matrix
    changed = np.load(tmp_path / "a.npy", mmap_mode="c")
    changed[:] = matrix
    padded = np.memmap(tmp_path / "padded", dtype=matrix.dtype, mode="w+", shape=(350, 7))
    padded[40:341] = matrix
    return {
        "path": tmp_path / "a.npy",
        "text": str(tmp_path / "a.npy"),
        "array": matrix,
        "columns": np.asfortranarray(matrix),
        "every other": np.repeat(matrix, 2, axis=0)[::2],
        "memmap": np.load(tmp_path / "a.npy", mmap_mode="r"),
        "raw memmap": raw,
        "private memmap": changed,
        "part of a memmap": padded[40:341],
        "parts": [matrix[:99], np.zeros((0, 7), dtype=matrix.dtype), matrix[99:250], tmp_path / "b.npy"],
        "blocks": (matrix[start : start + 50] for start in range(0, 301, 50)),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_kind_of_source_gives_the_same_rows(tmp_path, matrix, dtype):
    matrix = matrix.astype(dtype)
    for name, source in kinds(tmp_path, matrix).items():
        with open_source(source, tmp_path) as rows:
            assert (rows.count, rows.dim, rows.itemsize) == (301, 7, np.dtype(dtype).itemsize), name
            np.testing.assert_array_equal(everything(rows), matrix.astype(np.float32), err_msg=name)
            wanted = np.array([0, 1, 2, 30, 31, 33, 98, 99, 200, 249, 250, 300])
            np.testing.assert_array_equal(rows.gather(wanted), matrix[wanted].astype(np.float32), err_msg=name)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "b.npy", "raw", "padded"}  # the copy has no name


def test_a_private_memmap_is_read_as_it_is_in_memory(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[3] = 5
    with open_source(private) as rows:
        assert everything(rows)[3].tolist() == [5.0] * 7


def test_whole_memmaps_are_read_from_their_file(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    with open_source(np.load(tmp_path / "a.npy", mmap_mode="r")) as rows:
        assert isinstance(rows.parts[0], sources._File)


def test_long_stretches_are_gathered_in_pieces(monkeypatch, matrix):
    monkeypatch.setattr(sources, "GATHERED", 10)
    with open_source(matrix.astype(np.float16)) as rows:
        for wanted in (np.arange(301), np.arange(0, 301, 3), np.array([5]), np.arange(0)):
            np.testing.assert_array_equal(rows.gather(wanted), matrix.astype(np.float16)[wanted].astype(np.float32))


def test_widening_is_exact_for_every_finite_number():
    half = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    out = np.empty(half.shape, dtype=np.float32)
    widen(half, out)
    finite = np.isfinite(half)
    np.testing.assert_array_equal(out[finite].view(np.uint32), half.astype(np.float32)[finite].view(np.uint32))
    assert (np.abs(out[~finite]) >= 65536).all()  # so the check of lengths finds them


@pytest.mark.parametrize("widens", [True, False])
def test_careful_reading_keeps_what_widening_cannot(monkeypatch, widens):
    monkeypatch.setattr(sources, "keeps_small_numbers", lambda: widens)
    half = np.array([[np.nan, 1], [np.inf, 2], [-np.inf, 2.0**-24]], dtype=np.float16)
    out = np.empty((3, 2), dtype=np.float32)
    with open_source(half) as rows:
        rows.read(0, 3, out, careful=True)
        np.testing.assert_array_equal(out, half.astype(np.float32))
        rows.read(0, 3, out)
        assert out[2, 1] == 2.0**-24
        assert bool(np.isnan(out[0, 0])) is not widens


def test_identities_tell_contents_apart(tmp_path, matrix):
    def identity(source):
        with open_source(source) as rows:
            return rows.identity()

    other = matrix.copy()
    other[200, 3] += 1
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "b.npy", other)
    assert identity(matrix) == identity(np.asfortranarray(matrix)) != identity(other)
    assert identity(tmp_path / "a.npy") == identity(tmp_path / "a.npy") != identity(tmp_path / "b.npy")
    assert identity(iter([matrix])) == identity(iter([matrix[:100], matrix[100:]])) != identity(iter([other]))
    assert identity(matrix) != identity(matrix.astype(np.float16))
    before = identity(tmp_path / "a.npy")
    os.utime(tmp_path / "a.npy", (1, 1))
    assert identity(tmp_path / "a.npy") != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 2)), "holds float64, must hold float16 or float32"),
        (np.zeros(3, dtype=np.float32), r"must be a matrix \[candidates, dim\], has shape \[3\]"),
        (np.zeros((3, 0), dtype=np.float32), "must be a matrix"),
        (5, "must be a path, an array or an iterable of these, got int"),
        ([np.zeros((1, 2), dtype=np.float32), np.zeros((1, 3), dtype=np.float32)], r"different lengths, \[2, 3\]"),
        ([3], "parts must be paths or arrays, one is of type int"),
        (iter([3]), "blocks must be arrays"),
        (iter([np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float16)]), "blocks must be alike"),
        ("no/such/file.npy", r"no/such/file.npy: cannot be read \(No such file"),
    ],
)
def test_what_cannot_be_searched_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        open_source(source)


def test_damaged_files_are_named(tmp_path, matrix):
    np.save(tmp_path / "whole.npy", matrix)
    data = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-1])
    (tmp_path / "other.npy").write_bytes(b"PK" + data[2:])
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "columns.npy", np.asfortranarray(matrix))
    with pytest.raises(DataError, match=r"cut.npy: cut off, 8555 bytes where its header promises 8556"):
        open_source(tmp_path / "cut.npy")
    for name in ("other.npy", "empty.npy"):
        with pytest.raises(DataError, match=rf"{name}: not a .npy file"):
            open_source(tmp_path / name)
    with pytest.raises(InputError, match=r"columns.npy: stored by columns"):
        open_source(tmp_path / "columns.npy")
    with open_source(tmp_path / "whole.npy") as rows:
        os.truncate(tmp_path / "whole.npy", 1000)
        with pytest.raises(DataError, match=r"whole.npy: ends at byte 1000"):
            everything(rows)
