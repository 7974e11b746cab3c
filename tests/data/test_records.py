"""Reading and writing M-BEIR's files: every fault named, what is written is read back, nothing half-written."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.data.mbeir import (
    MAX_FAULTS,
    Candidate,
    Query,
    read_instructions,
    read_pool,
    read_qrels,
    read_queries,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import DataError
from puma.items import IMAGE, IMAGE_TEXT, TEXT

GOOD = {"qid": "9:1", "query_txt": "a cat", "query_img_path": None, "query_modality": "text", "pos_cand_list": ["9:7"]}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_published_query_line_is_read(tmp_path: Path) -> None:
    published = {
        "qid": "7:41", "query_txt": "is shiny and silver", "query_img_path": "mbeir_images/fashioniq_images/B0.jpg",
        "query_modality": "image,text", "query_src_content": None, "pos_cand_list": ["7:2"], "neg_cand_list": [],
        "task_id": 7,
    }  # fmt: skip
    (query,) = read_queries(lines(tmp_path / "q.jsonl", published))
    assert query == Query(
        "7:41", "is shiny and silver", "mbeir_images/fashioniq_images/B0.jpg", IMAGE_TEXT, ("7:2",), (), 7
    )
    item = query.item(tmp_path)
    assert item.modality == IMAGE_TEXT
    assert item.image == tmp_path / "mbeir_images/fashioniq_images/B0.jpg"


def test_a_published_candidate_line_is_read(tmp_path: Path) -> None:
    published = {"txt": "", "img_path": "mbeir_images/a.jpg", "modality": "image", "did": "4:5", "src_content": None}
    assert read_pool(lines(tmp_path / "c.jsonl", published)) == [Candidate("4:5", None, "mbeir_images/a.jpg", IMAGE)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qid": "41"}, "qid must be"),
        ({"qid": None}, "qid must be"),
        ({"query_modality": "video"}, "query_modality must be one of"),
        ({"query_modality": "image"}, "but the record holds a text"),
        ({"query_txt": "  "}, "neither text nor image"),
        ({"query_txt": 3}, "query_txt must be a string"),
        ({"query_img_path": "/etc/passwd", "query_modality": "image,text"}, "relative to the root"),
        ({"query_img_path": "a/../../b", "query_modality": "image,text"}, "relative to the root"),
        ({"pos_cand_list": "9:7"}, "must be a list"),
        ({"pos_cand_list": ["9:7", "9:7"]}, "twice"),
        ({"task_id": 12}, "task_id must be one of"),
    ],
)
def test_each_fault_names_file_line_and_field(tmp_path: Path, change: dict, message: str) -> None:
    path = lines(tmp_path / "bad.jsonl", GOOD, {**GOOD, "qid": "9:2", **change})
    with pytest.raises(DataError, match=message) as error:
        read_queries(path)
    assert "bad.jsonl" in str(error.value)
    assert "line 2" in str(error.value)


def test_all_faults_together_up_to_a_limit(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *(["not json", "[1]", {**GOOD, "qid": "x"}] * 10))
    with pytest.raises(DataError) as error:
        read_queries(path)
    text = str(error.value)
    assert "30 faults" in text
    assert text.count("\n  line ") == MAX_FAULTS
    assert "and 10 more" in text
    assert "line 1: is not JSON" in text
    assert "line 2: must be a JSON object" in text


def test_duplicate_ids_are_refused_with_both_lines(tmp_path: Path) -> None:
    candidate = {"did": "9:1", "txt": "a", "img_path": None, "modality": "text"}
    with pytest.raises(DataError, match=r"line 3: the id 9:1 was already used in line 1"):
        read_pool(lines(tmp_path / "c.jsonl", candidate, {**candidate, "did": "9:2"}, candidate))
    with pytest.raises(DataError, match="9:1 would be written twice"):
        write_pool(tmp_path / "out.jsonl", [Candidate("9:1", "a", None, TEXT), Candidate("9:1", "b", None, TEXT)])
    assert list(tmp_path.glob("out*")) == []


def test_missing_files_folders_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_queries(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_pool(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"qid": "9:1", "query_txt": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 1: is not UTF-8"):
        read_queries(tmp_path / "latin.jsonl")
    deep = tmp_path / "deep.jsonl"
    deep.write_text("[" * 200_000 + "\n")
    with pytest.raises(DataError, match="line 1"):
        read_queries(deep)


def test_qrels_columns_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    write_qrels(path, {"9:1": {"9:5": 1, "9:6": 0}, "9:2": {"9:5": 2}}, 3)
    assert path.read_text() == "9:1 0 9:5 1 3\n9:1 0 9:6 0 3\n9:2 0 9:5 2 3\n"
    assert read_qrels(path) == {"9:1": {"9:5": 1, "9:6": 0}, "9:2": {"9:5": 2}}
    path.write_text("9:1 0 9:5 1 3\n9:1 0 9:5 1 3\n9:1 0\n9:1 0 9:6 yes 3\n")
    with pytest.raises(DataError, match="3 faults") as error:
        read_qrels(path)
    assert "line 2: judges query 9:1 and candidate 9:5 a second time" in str(error.value)
    assert "line 3: must have 5 columns" in str(error.value)


def test_instructions_leave_out_empty_prompts(tmp_path: Path) -> None:
    path = tmp_path / "i.tsv"
    write_instructions(
        path, [(TEXT, IMAGE, "OpenPics", 20, ["Find it.", "Show it."]), (IMAGE, TEXT, "OpenPics", 20, ["Name it."])]
    )
    assert read_instructions(path) == {(20, TEXT, IMAGE): ["Find it.", "Show it."], (20, IMAGE, TEXT): ["Name it."]}
    path.write_text("h\ntext\timage\tX\t3\tone\t\ttwo\n")
    assert read_instructions(path) == {(3, TEXT, IMAGE): ["one", "two"]}
    path.write_text("h\ntext\timage\tX\n")
    with pytest.raises(DataError, match="line 2"):
        read_instructions(path)
    with pytest.raises(DataError, match="tab"):
        write_instructions(path, [(TEXT, IMAGE, "X", 1, ["a\tb"])])


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(texts, st.sampled_from([TEXT, IMAGE, IMAGE_TEXT]), st.none() | texts), max_size=8))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, drawn: list) -> None:
    folder = tmp_path_factory.mktemp("round")
    candidates = [
        Candidate(f"20:{n}", text if m != IMAGE else None, f"i/{n}.webp" if m != TEXT else None, m, src)
        for n, (text, m, src) in enumerate(drawn)
    ]
    write_pool(folder / "pool.jsonl", candidates)
    assert read_pool(folder / "pool.jsonl") == candidates
    queries = [Query(c.did, c.text, c.image_path, c.modality, ("20:1",), ("20:2",), 3, c.src) for c in candidates]
    write_queries(folder / "queries.jsonl", queries)
    assert read_queries(folder / "queries.jsonl") == queries
    assert sorted(p.name for p in folder.iterdir()) == ["pool.jsonl", "queries.jsonl"]


def test_the_cards_spellings_are_taken(tmp_path: Path) -> None:
    card = {**GOOD, "query_img_path": "a.jpg", "query_modality": "text,image", "pos_cand_list": [{"did": "9:7"}]}
    (query,) = read_queries(lines(tmp_path / "q.jsonl", card))
    assert (query.modality, query.positives) == (IMAGE_TEXT, ("9:7",))
    path = tmp_path / "i.tsv"
    path.write_text("h\ntext,image\timage\tX\t3\tone\n")
    assert read_instructions(path) == {(3, IMAGE_TEXT, IMAGE): ["one"]}


def test_repeated_negatives_are_read_once(tmp_path: Path) -> None:
    (query,) = read_queries(lines(tmp_path / "q.jsonl", {**GOOD, "neg_cand_list": ["9:1", "9:2", "9:1"]}))
    assert query.negatives == ("9:1", "9:2")


def test_git_lfs_pointers_are_told_from_data(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(DataError, match=r"Git LFS's pointer.*git lfs pull"):
        read_pool(path)


def test_qrels_of_one_task_among_several(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("9:1 0 9:5 1 0\n9:2 0 9:6 1 3\n9:3 0 9:7 1\n")
    assert read_qrels(path, 3) == {"9:2": {"9:6": 1}, "9:3": {"9:7": 1}}
    path.write_text("9:1 0 9:5 1 x\n")
    with pytest.raises(DataError, match="whole-number grade"):
        read_qrels(path)
