"""Stored vectors in UniIR's layout: ids there and back, both directions, what is missing, what is damaged."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.data.mbeir import pool_path
from puma.errors import DataError, InputError
from puma.evaluation.mbeir import evaluate
from puma.evaluation.runs import read_run
from puma.evaluation.stored.reading import (
    evaluate_embeddings,
    hash_did,
    hash_qid,
    read_embeddings,
    unhash_did,
    unhash_qid,
)
from puma.evaluation.stored.writing import write_embeddings
from support.benchmarks import named_tasks
from support.encoders import NamedEncoder


@given(st.integers(0, 400), st.integers(0, 499_999))
def test_ids_come_back_from_their_hash(dataset, number):
    name = f"{dataset}:{number}"
    assert unhash_qid(hash_qid(name)) == name
    assert unhash_did(hash_did(name)) == name


def test_hashes_are_uniirs():
    assert hash_qid("3:7") == 3 * 500_000 + 7
    assert hash_did("3:7") == 3 * 10_000_000 + 7
    assert hash_did("0:9999999") == 9_999_999


@pytest.mark.parametrize("name", ["9:500000", "9", "9:-1", "a:1", "9:1:2", ""])
def test_an_id_that_would_be_another_ones_is_refused(name):
    with pytest.raises(InputError, match="an id must be"):
        hash_qid(name)


@pytest.fixture
def root(tmp_path):
    return named_tasks(tmp_path / "root")


@pytest.fixture
def stored(root, tmp_path):
    write_embeddings(NamedEncoder(), root, tmp_path / "stored", dtype="float32", progress=False)
    return tmp_path / "stored"


def test_what_was_written_scores_as_the_encoder_does(root, stored, tmp_path):
    expected = evaluate(NamedEncoder(), root, run_dir=tmp_path / "one", details=True, progress=False)
    tables = evaluate_embeddings(stored, root, run_dir=tmp_path / "two", details=True)
    assert tables == expected
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert len(names) == 6
    for name in names:
        one, two = read_run(tmp_path / "one" / name), read_run(tmp_path / "two" / name)
        assert {qid: list(row) for qid, row in one.items()} == {qid: list(row) for qid, row in two.items()}
        # Brought to unit length once more, a vector may change in its last bit, and a score in its last decimal.
        assert all(one[qid] == pytest.approx(two[qid], abs=1.5e-6) for qid in one)


def test_within_a_budget_the_figures_are_the_same(root, stored, tmp_path):
    (tmp_path / "work").mkdir()
    assert evaluate_embeddings(stored, root, memory=1, work=tmp_path / "work") == evaluate_embeddings(stored, root)
    assert list((tmp_path / "work").iterdir()) == []


def test_the_files_are_uniirs(root, tmp_path):
    written = write_embeddings(NamedEncoder(), root, tmp_path / "stored", progress=False)
    expected = {f"test/mbeir_tiny_task{task}_test_embed.npy": 7 for task in (0, 3, 7)}
    expected |= {f"cand_pool/mbeir_tiny_task{task}_test_cand_pool_embed.npy": 12 for task in (0, 3, 7)}
    assert written.files == expected | {"cand_pool/mbeir_union_cand_pool_embed.npy": 36}
    assert written.skipped == {}
    found = {str(path.relative_to(tmp_path / "stored")) for path in (tmp_path / "stored").rglob("*.npy")}
    assert found == {name for key in written.files for name in (key, key.replace("_embed", "_ids"))}
    for name, rows in written.files.items():
        vectors = np.load(tmp_path / "stored" / name)
        ids = np.load(tmp_path / "stored" / name.replace("_embed", "_ids"))
        assert (vectors.dtype, vectors.shape, ids.dtype, ids.shape) == (np.float16, (rows, 16), np.int64, (rows,))
    assert np.load(tmp_path / "stored/test/mbeir_tiny_task0_test_ids.npy")[0] == 9 * 500_000 + 100
    assert np.load(tmp_path / "stored/cand_pool/mbeir_tiny_task3_test_cand_pool_ids.npy")[1] == 9 * 10_000_000 + 201


def test_the_pools_file_name_is_kept_and_each_candidate_embedded_once(root, tmp_path):
    shared = pool_path(root, "tiny", 0, "test")
    shared.rename(shared.with_name("mbeir_tiny_task0_cand_pool.jsonl"))
    encoder = NamedEncoder()
    written = write_embeddings(encoder, root, tmp_path / "stored", instruction="none", progress=False)
    assert "cand_pool/mbeir_tiny_task0_cand_pool_embed.npy" in written.files
    assert encoder.calls == 36 + 3 * 7
    assert set(encoder.seen_instructions) == {None}
    assert evaluate_embeddings(tmp_path / "stored", root)["0"]["skipped"] == 0


def test_vectors_of_any_length_and_half_precision_are_taken(root, stored):
    expected = evaluate_embeddings(stored, root)
    for path in stored.rglob("*_embed.npy"):
        np.save(path, np.load(path) * np.float32(3.5))
    assert evaluate_embeddings(stored, root) == expected
    for path in stored.rglob("*_embed.npy"):
        np.save(path, np.load(path).astype(np.float16))
    half = evaluate_embeddings(stored, root)
    assert half["0"]["mrr@10"] == pytest.approx(expected["0"]["mrr@10"], abs=0.1)


def test_files_in_one_folder_and_in_another_order_are_taken(root, stored, tmp_path):
    expected = evaluate_embeddings(stored, root)
    (tmp_path / "flat").mkdir()
    for path in stored.rglob("*.npy"):
        np.save(tmp_path / "flat" / path.name, np.load(path)[::-1])
    assert evaluate_embeddings(tmp_path / "flat", root) == expected


def drop(path, row):
    for name in (path, path.with_name(path.name.replace("_embed", "_ids"))):
        np.save(name, np.delete(np.load(name), row, axis=0))


def test_what_is_missing_is_a_miss_and_said(root, stored):
    good = evaluate_embeddings(stored, root, details=True)
    drop(stored / "test/mbeir_tiny_task0_test_embed.npy", 2)
    rows = np.load(stored / "test/mbeir_tiny_task0_test_embed.npy")
    rows[0] = 0
    np.save(stored / "test/mbeir_tiny_task0_test_embed.npy", rows)
    tables = evaluate_embeddings(stored, root, details=True)
    assert tables["0"]["queries"] == 7
    assert tables["0"]["skipped"] == 2
    assert tables["0"]["skipped_items"] == [
        "9:100: no vector, or one without a direction",
        "9:102: no vector, or one without a direction",
    ]
    assert tables["0"]["per_query"] == good["0"]["per_query"] | {"9:100": None, "9:102": None}
    for path in (stored / "cand_pool").glob("*_embed.npy"):
        if "task3" in path.name or "union" in path.name:
            drop(path, np.flatnonzero(np.load(str(path).replace("_embed", "_ids")) == hash_did("9:201")))
    tables = evaluate_embeddings(stored, root)
    assert (tables["3"]["pool"], tables["3"]["skipped"]) == (12, 1)
    assert tables["3"]["skipped_items"] == ["9:201: no vector, or one without a direction"]


def test_damaged_folders_are_named(root, stored, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_embeddings(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no test/mbeir_\*_test_embed.npy"):
        read_embeddings(tmp_path / "empty")
    one = stored / "test/mbeir_tiny_task0_test_embed.npy"
    ids = stored / "test/mbeir_tiny_task0_test_ids.npy"
    kept, names = one.read_bytes(), ids.read_bytes()
    one.write_bytes(kept[:200])
    with pytest.raises(DataError, match="no array that can be read"):
        read_embeddings(stored)
    one.write_bytes(kept)
    np.save(one, np.load(one)[:3])
    with pytest.raises(DataError, match=r"float32 \[3, 16\] and int64 \[7\]"):
        read_embeddings(stored)
    one.write_bytes(kept)
    np.save(one, np.load(one)[:, :4])
    with pytest.raises(DataError, match=r"vectors of different lengths: \[4, 16\]"):
        read_embeddings(stored)
    one.write_bytes(kept)
    np.save(ids, np.array([1, 2, 3, 3, 4, 5, 6]))
    with pytest.raises(DataError, match="1 ids occur twice, as 3"):
        read_embeddings(stored)
    np.save(ids, np.array([object()] * 7))
    with pytest.raises(DataError, match="no array that can be read"):
        read_embeddings(stored)
    ids.unlink()
    with pytest.raises(DataError, match="without its ids"):
        read_embeddings(stored)
    ids.write_bytes(names)
    assert read_embeddings(stored).dim == 16


def test_a_union_that_holds_an_id_twice_is_refused(root, stored):
    for end in ("embed", "ids"):
        path = stored / f"cand_pool/mbeir_union_cand_pool_{end}.npy"
        np.save(path, np.concatenate([np.load(path), np.load(path)[:2]]))
    with pytest.raises(DataError, match="2 ids occur twice"):
        evaluate_embeddings(stored, root)


def test_vectors_of_something_else_are_refused(root, stored, tmp_path):
    other = named_tasks(tmp_path / "other", dataset="far", number=4)
    with pytest.raises(DataError, match="none of the 36 candidates has a vector, as 4:"):
        evaluate_embeddings(stored, other)
    (stored / "test/mbeir_tiny_task3_test_embed.npy").unlink()
    with pytest.raises(DataError, match=r"no test/mbeir_tiny_task3_test_embed\.npy"):
        evaluate_embeddings(stored, root)


def test_the_fingerprint_follows_the_vectors(root, stored):
    before = read_embeddings(stored).fingerprint
    assert before == read_embeddings(stored).fingerprint
    path = stored / "test/mbeir_tiny_task0_test_embed.npy"
    np.save(path, -np.load(path))
    assert read_embeddings(stored).fingerprint != before


def test_arguments_are_checked_before_anything_is_embedded(root, tmp_path):
    encoder = NamedEncoder()
    with pytest.raises(InputError, match="dtype one of"):
        write_embeddings(encoder, root, tmp_path / "a", dtype="int8")
    with pytest.raises(InputError, match="instruction must be one of"):
        write_embeddings(encoder, root, tmp_path / "a", instruction="all")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        write_embeddings(encoder, root, tmp_path / "b")
    assert encoder.calls == 0


def test_killed_while_writing_it_leaves_no_folder(root, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))!r})
from support.encoders import NamedEncoder
from puma.evaluation.stored.writing import write_embeddings
class Killed(NamedEncoder):
    def encode(self, items, *, instruction=None):
        if instruction is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(items, instruction=instruction)
write_embeddings(Killed(), {str(root)!r}, {str(tmp_path / "out")!r}, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    written = write_embeddings(NamedEncoder(), root, tmp_path / "out", progress=False)
    assert len(written.files) == 7
