"""``puma doctor --parity``: real servers and sentence-transformers, that agree, differ, refuse, or are none."""

import http.server
import json
from contextlib import contextmanager

import numpy as np
import pytest

from puma.cli import app as cli
from puma.errors import InputError, ModelError
from puma.items import MODALITIES
from puma.retriever.model import Retriever
from puma.retriever.parity import LEAST, built_in, compare
from support import families
from support.encoders import ToyEncoder
from support.local_server import running
from support.served import served


@pytest.fixture(scope="module")
def folder(family_base, tmp_path_factory):
    made = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
    return made.save_pretrained(tmp_path_factory.mktemp("parity") / "model")


@pytest.fixture(scope="module")
def retriever(folder):
    return Retriever.from_pretrained(folder, device="cpu")


@contextmanager
def answering(code, body):
    """A server that gives every request this answer; yields its address and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - http.server's own name

        def log_message(self, *_):
            pass

    with running(Handler) as address:
        yield address, asked


def test_the_set_holds_every_modality_with_and_without_an_instruction(retriever):
    cases = built_in()
    kinds = {(case.item.modality, case.instruction is not None) for case in cases}
    assert kinds == {(modality, flag) for modality in MODALITIES for flag in (False, True)}
    assert len({case.name for case in cases}) == len(cases)
    vectors = retriever.encode([case.item for case in cases], [case.instruction for case in cases])
    cosines = vectors @ vectors.T - np.eye(len(cases))
    assert cosines.max() < 0.99999  # no two of them are one to the model


def test_sentence_transformers_and_our_own_server_agree(folder, retriever):
    with served(None, retriever) as address:
        found = compare(retriever, folder, f"{address}/v1")
    assert {(own.program, own.modality) for own in found} == {
        (program, modality) for program in ("sentence-transformers", f"{address}/v1") for modality in MODALITIES
    }
    assert min(own.worst for own in found) > 0.999999
    assert all(own.passed for own in found)


def test_a_server_with_other_weights_fails(folder, retriever, tmp_path, capsys):
    other = Retriever.from_base(families.build("qwen2_vl", tmp_path / "base", seed=5), layers=2, device="cpu")
    with served(None, other) as address:
        code = cli.main(["doctor", "--parity", str(folder), "--server", address, "--json"])
        output = json.loads(capsys.readouterr().out)
        assert code == 1
        assert (output["passed"], output["least"]) == (False, LEAST)
        worst = {row["program"]: row["worst"] for row in output["worst"] if row["modality"] == "text"}
        assert worst[address] < LEAST < worst["sentence-transformers"]
        assert cli.main(["doctor", "--parity", str(folder), "--server", address]) == 1
        lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(f"{address}  text  ")
    assert "below 0.999 (worst: " in lines[0]
    assert all(line.endswith(")") and "  same (worst: " in line for line in lines[3:])


def test_a_server_of_another_length_or_none_at_all(folder, retriever, capsys):
    says = r"gives 16 numbers, this one 32; start it with this model"
    with served(None, ToyEncoder(dim=16)) as address, pytest.raises(ModelError, match=says):
        compare(retriever, folder, address)
    with pytest.raises(ModelError, match=r"no usable answer from .*/v1/models \(.*refused.*\); is it running"):
        compare(retriever, folder, address)  # it has ended
    with pytest.raises(InputError, match="give its address, as http://localhost:8000"):
        compare(retriever, folder, "localhost:8000")
    assert cli.main(["doctor", "--parity", str(folder), "--server", address]) == 2
    assert "is it running?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "body", "says"),
    [
        (401, b"who are you", "with 401: who are you; set PUMA_TOKEN to its token"),
        (404, b"no", "with 404: no"),
        (200, b"<html>", "no usable answer"),
        (200, b"[]", "answers with no JSON object"),
        (200, b'{"data": []}', "names no model"),
        (200, b'{"data": [{"id": "m"}]}', "its answer holds no embedding"),
        (200, b'{"data": [{"id": "m", "embedding": "abc"}]}', "its answer holds no embedding"),
        (200, b'{"data": [{"id": "m", "embedding": [[1]]}]}', "gives 1 numbers, this one 32"),
        (200, json.dumps({"data": [{"id": "m", "embedding": [float("nan")] * 32}]}).encode(), "not finite"),
    ],
)
def test_answers_that_are_none(folder, retriever, monkeypatch, code, body, says):
    monkeypatch.setenv("PUMA_TOKEN", "secret")
    with answering(code, body) as (address, asked), pytest.raises(ModelError) as caught:
        compare(retriever, folder, address)
    assert says in str(caught.value)
    assert address in str(caught.value)
    assert asked[0] == ("/v1/models", "Bearer secret")


def test_flags_that_do_not_go_together(folder, tmp_path, capsys):
    assert cli.main(["doctor", "--server", "http://localhost:1"]) == 2
    assert "--server goes with --parity" in capsys.readouterr().err
    assert cli.main(["doctor", "--parity", str(folder), "--mbeir", str(tmp_path)]) == 2
    assert "give one of --mbeir and --parity" in capsys.readouterr().err
    assert cli.main(["doctor", "--parity", str(tmp_path / "gone")]) == 2
    assert "no such model folder" in capsys.readouterr().err
