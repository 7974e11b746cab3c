"""Results documents: there and back, what is refused."""

import json

import pytest

from puma.errors import DataError, InputError
from puma.evaluation.mbeir import evaluate
from puma.evaluation.results import make_results, read_results, write_results
from support.benchmarks import named_tasks
from support.encoders import NamedEncoder

ABOUT = {"root": "tiny", "dataset": "tiny", "split": "test", "instruction": "first"}


def test_an_evaluation_comes_back_whole(tmp_path):
    root = named_tasks(tmp_path / "root")
    tables = evaluate(NamedEncoder(), root, details=True, progress=False)
    made = make_results("named", "named-16", ABOUT, tables, machine={"cores": 2})
    write_results(tmp_path / "a.json", made)
    assert read_results(tmp_path / "a.json") == made
    assert made["per_query"]["local"]["0"] == tables["0"]["per_query"]
    assert made["per_query"]["global"]["7"] == tables["7"]["global"]["per_query"]
    assert made["tables"] == evaluate(NamedEncoder(), root, progress=False)  # the same, without the details
    assert (made["format"], made["model"], made["benchmark"], made["machine"]) == (1, "named", ABOUT, {"cores": 2})
    assert str(tmp_path) not in (tmp_path / "a.json").read_text()
    ranks = made["per_query"]["local"]["0"]
    assert sum(rank is not None and rank <= 5 for rank in ranks.values()) / len(ranks) == tables["0"]["hit_rate@5"]


def test_what_is_no_document_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="no such results file; puma evaluate --json-out"):
        read_results(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_results(path)
    for value in ([], {}, {"format": 2}):
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match="not a results document of format 1"):
            read_results(path)
    good = make_results("m", "f", ABOUT, {"0": {"queries": 1, "per_query": {"9:1": 1}}})
    for field, value, said in [
        ("tables", [], "tables must be dict"),
        ("per_query", {"local": []}, "per_query of local"),
        ("per_query", {"local": {"0": []}}, "per_query of local, 0 must be"),
        ("per_query", {"local": {"0": {"9:1": 0}}}, "query 9:1 must be a rank of at least 1 or null"),
        ("per_query", {"local": {"0": {"9:1": True}}}, "query 9:1 must be a rank"),
    ]:
        path.write_text(json.dumps(good | {field: value}))
        with pytest.raises(DataError, match=said):
            read_results(path)
    path.write_text(json.dumps(good))
    assert read_results(path)["per_query"] == {"local": {"0": {"9:1": 1}}}


def test_fields_are_checked_when_a_document_is_made():
    with pytest.raises(InputError, match="benchmark must hold root, dataset, split, instruction"):
        make_results("m", "f", {"root": "tiny"}, {})
    with pytest.raises(InputError, match="the document's own fields"):
        make_results("m", "f", ABOUT, {}, per_query={})
