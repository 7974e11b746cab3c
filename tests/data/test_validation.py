"""Every kind of fault in a published folder is found, where it is, all together; a whole folder has none."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from puma.data import findings as kinds
from puma.data.validation import examine
from puma.errors import DataError, InputError
from support import benchmarks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmarks.published(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "M-BEIR")


def lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(line + "\n" for line in change(path.read_text(encoding="utf-8").splitlines())))


def record(path: Path, line: int, **changes) -> None:
    def change(found: list[str]) -> list[str]:
        return [json.dumps(json.loads(t) | changes) if n == line else t for n, t in enumerate(found, 1)]

    lines(path, change)


def reported(root: Path, **options) -> dict[str, str]:
    """Kind by "file:line: message"."""
    return {f"{f.file}:{f.line}: {f.message}": f.kind for f in examine(root, images="all", **options).faults}


def test_a_whole_folder_has_no_fault(whole: Path) -> None:
    said: list[str] = []
    findings = examine(whole, images="all", say=said.append)
    assert (findings.total, findings.faults) == (0, [])
    # 10 train and 32 other query files, as many qrels, 18 local and 3 global pools, 2 unions, the instructions
    assert findings.files == len(said) == 42 + 42 + 18 + 3 + 2 + 1
    assert len(set(said)) == len(said)
    assert findings.images >= findings.opened > 0
    on_disk = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.suffix in (".jsonl", ".txt", ".tsv")}
    assert set(said) == on_disk


def test_short_files_are_noted_but_are_no_fault(whole: Path) -> None:
    notes = examine(whole, images="none").notes
    assert "query/test/mbeir_visualnews_task0_test.jsonl: 3 records; as published about 20 thousand" in notes
    assert len(notes) == 32  # sixteen tests and their pools


@pytest.mark.parametrize(
    "name",
    [
        "query/test/mbeir_oven_task6_test.jsonl",
        "query/train/mbeir_cirr_train.jsonl",
        "query/union_train/mbeir_union_up_train.jsonl",
        "query/union_val/mbeir_union_val.jsonl",
        "cand_pool/local/mbeir_webqa_task1_cand_pool.jsonl",
        "cand_pool/local/mbeir_mscoco_task0_val_cand_pool.jsonl",
        "cand_pool/global/mbeir_union_test_cand_pool.jsonl",
        "qrels/val/mbeir_edis_task2_val_qrels.txt",
        "qrels/train/mbeir_nights_train_qrels.txt",
        "instructions/query_instructions.tsv",
    ],
)
def test_a_missing_file_is_the_only_fault(root: Path, name: str) -> None:
    (root / name).unlink()
    assert reported(root) == {f"{name}:0: no such file": kinds.MISSING_FILE}


def test_everything_at_once(root: Path) -> None:
    test, local = root / "query/test", root / "cand_pool/local"
    record(test / "mbeir_mscoco_task0_test.jsonl", 1, query_modality="video")
    record(test / "mbeir_mscoco_task3_test.jsonl", 2, task_id=0)
    record(test / "mbeir_webqa_task1_test.jsonl", 1, qid="2:1202")  # the second's
    record(test / "mbeir_edis_task2_test.jsonl", 3, pos_cand_list=["3:999999"])
    record(test / "mbeir_cirr_task7_test.jsonl", 2, pos_cand_list=["9:201"])  # MSCOCO's, in the union only
    lines(local / "mbeir_nights_task4_cand_pool.jsonl", lambda found: [*found, "{not json"])
    record(local / "mbeir_fashioniq_task7_cand_pool.jsonl", 1, img_path="mbeir_images/fashioniq_images/blue.jpg")
    record(local / "mbeir_oven_task8_cand_pool.jsonl", 1, did="5:77")
    lines(root / "qrels/test/mbeir_infoseek_task6_test_qrels.txt", lambda found: [*found, found[0], "6:1 0 6:2 1 6"])
    lines(root / "qrels/test/mbeir_oven_task6_test_qrels.txt", lambda found: found[1:])
    lines(root / "instructions/query_instructions.tsv", lambda found: [t for t in found if "NIGHTS" not in t])
    (root / "mbeir_images/visualnews_images/red.jpg").unlink()
    (root / "mbeir_images/visualnews_images/blue.jpg").write_bytes(b"no picture")
    found = reported(root, splits=["test"])
    expected = {
        "mbeir_mscoco_task0_test.jsonl:1: query_modality must be one of": kinds.MALFORMED_LINE,
        "mbeir_mscoco_task3_test.jsonl:2: 9:3202 has task_id 0, the file is of 3": kinds.MALFORMED_LINE,
        "mbeir_webqa_task1_test.jsonl:2: the id 2:1202 was already used in line 1": kinds.REPEATED_ID,
        "mbeir_edis_task2_test.jsonl:3: 3:2203 names 3:999999, not in the pool": kinds.UNKNOWN_ID,
        "mbeir_cirr_task7_test.jsonl:2: 8:7202 has no positive in its local pool": kinds.UNKNOWN_ID,
        "mbeir_nights_task4_cand_pool.jsonl:4: is not JSON": kinds.MALFORMED_LINE,
        "mbeir_fashioniq_task7_cand_pool.jsonl:1: 7:7101 is not the same candidate": kinds.DISAGREEMENT,
        "mbeir_oven_task8_cand_pool.jsonl:1: 5:77 is not in the global pool": kinds.DISAGREEMENT,
        "mbeir_infoseek_task6_test_qrels.txt:7: judges again the pair of line 1": kinds.REPEATED_ID,
        "mbeir_infoseek_task6_test_qrels.txt:8: the qrels judge 6:1, which is no query": kinds.UNKNOWN_ID,
        "mbeir_oven_task6_test_qrels.txt:0: 5:6101 is a positive of 5:6201 in its query": kinds.DISAGREEMENT,
        "query_instructions.tsv:0: no prompts for data set 4 (NIGHTS), image to image": kinds.DISAGREEMENT,
        "shows mbeir_images/visualnews_images/red.jpg, which is missing": kinds.MISSING_IMAGE,
        "shows mbeir_images/visualnews_images/blue.jpg, which cannot be used": kinds.BROKEN_IMAGE,
    }
    for part, kind in expected.items():
        matching = [own for message, own in found.items() if part in message]
        assert matching, f"{part!r} is not among {sorted(found)}"
        assert set(matching) == {kind}


def test_positives_of_the_other_data_set_are_right(whole: Path) -> None:
    """OVEN's and InfoSeek's, as published: in the union, not in the local pool."""
    asked = [json.loads(t) for t in (whole / "query/test/mbeir_oven_task6_test.jsonl").read_text().splitlines()]
    assert {did.partition(":")[0] for query in asked for did in query["pos_cand_list"]} == {"5", "6"}
    assert reported(whole, splits=["test"]) == {}


def test_the_train_split_is_compared_with_its_union(root: Path) -> None:
    record(root / "query/union_train/mbeir_union_up_train.jsonl", 5, qid="0:4444", pos_cand_list=["0:5555"])
    record(root / "query/train/mbeir_edis_train.jsonl", 1, task_id=None)
    found = reported(root, splits=["train"])
    assert "query/union_train/mbeir_union_up_train.jsonl:5: 0:5555" not in found
    assert found == {
        "query/union_train/mbeir_union_up_train.jsonl:5: 0:4444 is in none of the split's query files": "unknown id",
        "query/union_train/mbeir_union_up_train.jsonl:5: 0:4444 names 0:5555, not in the pool": "unknown id",
        "query/train/mbeir_edis_train.jsonl:1: 3:2001 has no task_id, and the file's name tells none": "malformed line",
    }


def test_images_that_were_never_unpacked_are_one_fault(root: Path) -> None:
    shutil.rmtree(root / "mbeir_images")
    assert reported(root) == {
        "mbeir_images:0: no such folder; unpack mbeir_images.tar.gz.part-* into the root": kinds.MISSING_FILE
    }
    assert examine(root, images="none").total == 0


def test_unfetched_and_unreadable_files(root: Path) -> None:
    pointer = root / "cand_pool/global/mbeir_union_val_cand_pool.jsonl"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    folder = root / "query/val/mbeir_cirr_task7_val.jsonl"
    folder.unlink()
    folder.mkdir()
    found = reported(root, splits=["val"])
    assert set(found.values()) == {kinds.UNREADABLE_FILE}
    assert any("val_cand_pool.jsonl:0: is Git LFS's pointer to the file; fetch it" in message for message in found)
    assert any("mbeir_cirr_task7_val.jsonl:0: is a folder" in message for message in found)


def test_a_mistyped_name_is_missing_and_noted(root: Path) -> None:
    path = root / "cand_pool/local/mbeir_edis_task2_cand_pool.jsonl"
    path.rename(path.with_name("edis_task2_pool.jsonl"))
    findings = examine(root, splits=["test"], images="none")
    assert [fault.kind for fault in findings.faults] == [kinds.MISSING_FILE]
    assert any("edis_task2_pool.jsonl: not a name of this layout" in note for note in findings.notes)


def test_a_folder_of_its_own_kind_is_not_held_against_mbeir(tmp_path: Path) -> None:
    pool = [{"did": "30:1", "txt": "a", "img_path": None, "modality": "text"}]
    asked = {"qid": "30:1", "query_txt": "q", "query_modality": "text", "pos_cand_list": ["30:1"], "task_id": 1}
    benchmarks.jsonl(tmp_path / "query/test/mbeir_toy_task1_test.jsonl", [asked])
    benchmarks.jsonl(tmp_path / "cand_pool/local/mbeir_toy_task1_test_cand_pool.jsonl", pool)
    benchmarks.qrels(tmp_path / "qrels/test/mbeir_toy_task1_test_qrels.txt", [asked])
    (tmp_path / "instructions").mkdir()
    (tmp_path / "instructions/query_instructions.tsv").write_text("h\ntext\ttext\ttoy\t30\tFind it.\n")
    assert reported(tmp_path) == {}
    os.unlink(tmp_path / "qrels/test/mbeir_toy_task1_test_qrels.txt")
    assert reported(tmp_path) == {"qrels/test/mbeir_toy_task1_test_qrels.txt:0: no such file": kinds.MISSING_FILE}


def test_wrong_places_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        examine(tmp_path / "gone")
    with pytest.raises(DataError, match="holds none of query"):
        examine(tmp_path)
    with pytest.raises(InputError, match="splits must be some of"):
        examine(whole, splits=["dev"])
    with pytest.raises(InputError, match="all, none or how many"):
        examine(whole, images="few")
