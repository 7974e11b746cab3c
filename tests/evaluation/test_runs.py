"""TREC run files: exact round trip, whole or absent, faults named by line."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import DataError, InputError
from puma.evaluation import runs
from puma.evaluation.runs import read_run, write_run

WORDS = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8).filter(lambda w: w.split() == [w])


@given(
    run=st.dictionaries(
        WORDS,
        st.dictionaries(WORDS, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_round_trip_to_the_last_bit(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "a.run"
    write_run(path, run)
    assert read_run(path) == run


def test_lines_are_trec_and_best_first(tmp_path):
    write_run(tmp_path / "a.run", {"q": {"b": 0.1, "c": 0.30000000000000004, "a": 0.1}}, tag="mine")
    assert (tmp_path / "a.run").read_text() == (
        "q Q0 c 1 0.30000000000000004 mine\nq Q0 a 2 0.1 mine\nq Q0 b 3 0.1 mine\n"
    )


@pytest.mark.parametrize(
    "line", ["q Q0 d 1 0.5", "q Q0 d x 0.5 t", "q Q0 d 1 high t", "q Q0 d 1 nan t", "q Q0 d 1 0.5 t more", "\udcff"]
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "a.run"
    path.write_bytes(b"q Q0 c 1 0.5 t\n\n" + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match="line 3"):
        read_run(path)


def test_a_seventh_column_with_the_task_is_passed_over(tmp_path):
    (tmp_path / "a.run").write_text("q Q0 c 1 0.5 t 3\nq Q0 d 2 0.4 t\n")
    assert read_run(tmp_path / "a.run") == {"q": {"c": 0.5, "d": 0.4}}
    (tmp_path / "a.run").write_text("q Q0 c 1 0.5 t 3 4\n")
    with pytest.raises(DataError, match="line 1"):
        read_run(tmp_path / "a.run")


def test_a_document_twice_is_named(tmp_path):
    (tmp_path / "a.run").write_text("q Q0 c 1 0.5 t\nq Q0 c 2 0.4 t\n")
    with pytest.raises(DataError, match="line 2: document c occurs twice"):
        read_run(tmp_path / "a.run")


@pytest.mark.parametrize(
    "run", [{"a b": {"d": 1.0}}, {"q": {"": 1.0}}, {"q": {"d": float("nan")}}, {"q": {"d\n": 1.0}}]
)
def test_what_the_format_cannot_say_is_refused_and_nothing_written(tmp_path, run):
    with pytest.raises(InputError):
        write_run(tmp_path / "a.run", run)
    assert list(tmp_path.iterdir()) == []


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such run file"):
        read_run(tmp_path / "none.run")


def test_a_crash_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.run"
    write_run(path, {"q": {"d": 1.0}})
    old = path.read_bytes()

    def crash(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_run(path, {"q": {"e": 2.0}})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]
    assert Path(path).exists()
