"""``puma index add`` and ``puma embed`` of what lies on a real S3 server (moto's, on this machine): the same rows as of
a disk, with and without a cluster, and what is said where the server refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puma.cli import app as cli
from puma.cli.commands import _engine, _shared
from puma.index import Index
from puma.items import remote
from puma.search import Searcher
from puma.search.ingest import count_items
from puma.storage.object_stores import store_of
from support import plain
from support.encoders import ToyEncoder
from support.engines import BUCKET, S3_ENVIRONMENT, free_port, guarded_s3, placed, running_s3
from support.inline_ray import InlineRay

obstore = pytest.importorskip("obstore", reason="needs the extra object-store")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COUNT = 60


@pytest.fixture
def folder(tmp_path):
    """Images, a damaged one, a table of both kinds that names them, and one that holds them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        plain.image(number).save(folder / f"{number:02} ü#.png")
    (folder / "bad.png").write_bytes(b"no image")
    rows = [{"image": f"{number:02} ü#.png", "text": f"fox {number}", "n": number} for number in range(COUNT)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [(folder / row["image"]).read_bytes() for row in rows]
    pq.write_table(pa.table({"image": held, "text": [f"whale {n}" for n in range(COUNT)]}), folder / "held.parquet")
    return folder


@pytest.fixture
def address(request, tmp_path, folder):
    """The folder's, on the server."""
    where = placed(request, "s3", tmp_path)("photos")
    upload(folder, where)
    return where


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The model of all commands, and a cluster in this process."""
    for module in (_engine, _shared):
        monkeypatch.setattr(
            module, "load_encoder" if module is _engine else "load_retriever", lambda *_, **__: ToyEncoder()
        )
    monkeypatch.setattr(remote, "connected", lambda *given: InlineRay())


def upload(folder, where):
    root, key = where[: len(f"s3://{BUCKET}")], where[len(f"s3://{BUCKET}/") :]
    for path in folder.iterdir():
        obstore.put(store_of(root), f"{key}/{path.name}", path.read_bytes())


def run(capsys, *arguments):
    code = cli.main([str(part) for part in arguments])
    return code, *capsys.readouterr()


def rows(index, root):
    """By id: what is stored, with the root's name left out."""
    found = {}
    for part in Index(index, create=False).scan():
        for row in part:
            payload = json.dumps(
                [row.payload, sorted(map(str, row.other_payloads))], sort_keys=True, ensure_ascii=False
            )
            found[row.id] = (row.vector.tolist(), row.modality, payload.replace(str(root), "ROOT"), row.thumbnail)
    return found


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_index_of_a_bucket_is_that_of_a_disk(capsys, tmp_path, folder, address, engine):
    more = ["--engine", engine, "--json"]
    code, out, _ = run(capsys, "index", "add", tmp_path / "there", address, *more)
    there = json.loads(out)
    assert (code, there["embedded"], there["skipped"]) == (0, 3 * COUNT, 1)
    assert there["skips"][0]["where"] == f"{address}/bad.png"
    _, out, _ = run(capsys, "index", "add", tmp_path / "here", folder, "--json")
    assert {key: value for key, value in json.loads(out).items() if key != "skips"} == {
        key: value for key, value in there.items() if key != "skips"
    }
    assert rows(tmp_path / "there", address) == rows(tmp_path / "here", folder)
    _, out, _ = run(capsys, "index", "add", tmp_path / "there", address, "--sync", *more)
    again = json.loads(out)
    assert (again["embedded"], again["present"], again["deleted"]) == (0, 3 * COUNT, 0)


def test_an_index_in_a_bucket_of_things_in_a_bucket(capsys, address):
    index = address.replace("/photos", "/index")
    assert run(capsys, "index", "add", index, f"{address}/captions.jsonl", f"{address}/held.parquet")[0] == 0
    code, out, _ = run(capsys, "index", "ls", index, "--paths", "-n", 500)
    assert code == 0
    assert len(out.splitlines()) == COUNT + 1
    assert run(capsys, "index", "rm", index, "--path", f"{address}/held.parquet")[1].endswith(
        f"; {COUNT} items in all\n"
    )


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_vectors_of_a_bucket_are_those_of_a_disk(capsys, tmp_path, folder, address, engine):
    code, out, _ = run(capsys, "embed", address, "--out", tmp_path / "there.npz", "--engine", engine, "--json")
    assert (code, json.loads(out)["items"]) == (0, 3 * COUNT)
    run(capsys, "embed", folder, "--out", tmp_path / "here.npz")
    found = [dict(np.load(tmp_path / name)) for name in ("here.npz", "there.npz")]
    order = [np.argsort(one["ids"]) for one in found]
    for name in ("ids", "modalities", "vectors"):
        np.testing.assert_array_equal(found[0][name][order[0]], found[1][name][order[1]])


def test_a_command_that_was_killed_goes_on(tmp_path, address):
    code = (
        "import sys, time; from puma.search import Searcher; from support.encoders import ToyEncoder\n"
        "Searcher(ToyEncoder(), sys.argv[1]).add_paths([sys.argv[2]], batch_size=16, progress=False,"
        " on_batch=lambda done: (print(done.embedded, flush=True), time.sleep(0.2)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "i", address], stdout=subprocess.PIPE, text=True, env=environment
    )
    first = [int(child.stdout.readline()) for _ in range(2)]
    child.kill()
    child.communicate()
    added = Searcher(ToyEncoder(), tmp_path / "i").add_paths([address], progress=False)
    assert first[-1] <= added.present < 3 * COUNT
    assert added.embedded + added.present == 3 * COUNT
    assert Index(tmp_path / "i", create=False).verify() == []


ODD = ("a//b.png", "a//deep/c.png", "a/../d.png", "e/./f.png", "/g.png", "..")
GOOD = ("a/-1.png", "a/2.png", "a/deep/3.png", "a/deep/er/4.png", "e/5.png", "6.png", "z/7.png")


@pytest.mark.parametrize("many", [False, True])
def test_keys_that_are_none_of_a_path_are_listed_and_what_lies_beside_them_is_read(
    capsys, tmp_path, s3_server, folder, many
):
    import boto3

    given = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3_server, **given)
    name = f"odd-{many}"
    for number, key in enumerate(GOOD):
        client.put_object(Bucket=BUCKET, Key=f"{name}/{key}", Body=(folder / f"{number:02} ü#.png").read_bytes())
    for key in ODD:
        client.put_object(Bucket=BUCKET, Key=f"{name}/{key}", Body=b"x")
    if many:  # a whole page is listed before the one with the refused keys: nothing comes twice
        for number in range(1100):
            client.put_object(Bucket=BUCKET, Key=f"{name}/!{number}.txt", Body=b"x")
    client.close()
    address = f"s3://{BUCKET}/{name}"
    if not many:
        assert count_items([address]) == len(GOOD)
    code, out, _ = run(capsys, "index", "add", tmp_path / "i", address, "--json")
    done = json.loads(out)
    assert (code, done["embedded"], done["ignored"]) == (0, len(GOOD), 1100 * many)
    assert {skip["where"] for skip in done["skips"]} == {
        f"{address}{folder}" for folder in ("//", "/..", "/a//", "/a/../", "/e/./")
    }
    assert all("rename them" in skip["reason"] for skip in done["skips"])
    index = Index(tmp_path / "i")
    assert {row.payload["image"] for row in index.page(99)} == {f"{address}/{key}" for key in GOOD}
    done = json.loads(run(capsys, "index", "add", tmp_path / "i", address, "--sync", "--json")[1])
    assert (done["embedded"], done["present"], done["deleted"], len(done["skips"])) == (0, len(GOOD), 0, 5)
    # A folder that has no such key is listed as ever, whatever lies beside it.
    assert json.loads(run(capsys, "index", "add", tmp_path / "j", f"{address}/a/deep", "--json")[1])["skips"] == []


def command(environment, *arguments):
    """A command's exit code and last line on stderr, in a process of its own: clients keep their keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    kept["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-m", "puma.cli", *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def test_a_server_that_refuses_is_said_for_sources_and_for_indexes(tmp_path, folder):
    with running_s3() as endpoint:
        plain_environment = S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint}
        seed = (
            "import sys, obstore, numpy as np; from pathlib import Path; from puma.index import Index\n"
            "from puma.storage.object_stores import store_of\n"
            "for path in Path(sys.argv[1]).iterdir():\n"
            "    obstore.put(store_of('s3://bucket'), f'f/{path.name}', path.read_bytes())\n"
            "Index('s3://bucket/i', dim=2).add(['a'], np.eye(2, dtype=np.float32)[:1], ['text'], [{}])"
        )
        paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        subprocess.run([sys.executable, "-c", seed, folder], env=os.environ | plain_environment | paths, check=True)
        good, reader, nobody = guarded_s3(endpoint, ["s3:*"], ["s3:GetObject", "s3:ListBucket"], ["iam:ListUsers"])
        add = ["index", "add", tmp_path / "new", "--model", tmp_path / "no-model"]
        # With its own key everything is reached: what is refused is the model, which comes last.
        assert "no-model" in command(good, *add, "s3://bucket/f")[1]
        assert command(good, "index", "stats", "s3://bucket/i")[0] == 0
        code, output = command(good, *add, "s3://bukket/f")
        assert (code, "s3://bukket" in output, "NoSuchBucket" in output, "check the bucket" in output) == (
            1,
            True,
            True,
            True,
        )
        code, output = command(good, "index", "stats", "s3://bukket/i")
        assert (code, "NoSuchBucket" in output, "check the bucket" in output) == (1, True, True)
        wrong_key = plain_environment
        wrong_secret = good | {"AWS_SECRET_ACCESS_KEY": "wrong"}
        for given, word in (
            (wrong_key, "InvalidAccessKeyId"),
            (wrong_secret, "SignatureDoesNotMatch"),
            (nobody, "AccessDenied"),
        ):
            for asked in (
                [*add, "s3://bucket/f"],
                [*add, "s3://bucket/f/captions.jsonl"],
                ["embed", "s3://bucket/f", "--out", tmp_path / "v.npz"],
                ["index", "stats", "s3://bucket/i"],
                ["index", "add", "s3://bucket/i", folder],
                ["index", "add", "s3://bucket/new", folder],
            ):
                code, output = command(given, *asked)
                assert code == 1, (asked, output)
                assert "the object store cannot be used" in output, (asked, output)
                assert "check the bucket, the credentials and the endpoint" in output, (asked, output)
                assert word in output, (asked, output)
        assert command(reader, "index", "stats", "s3://bucket/i")[0] == 0
        assert "no-model" in command(reader, *add, "s3://bucket/f")[1]
        code, output = command(reader, "index", "rm", "s3://bucket/i", "a")
        assert (code, "the object store cannot be used (AccessDenied" in output) == (1, True), output
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "v.npz").exists()


def test_without_credentials_it_is_said_that_there_are_none(tmp_path):
    # On a machine of a cloud there may be some.
    code, output = command({"AWS_REGION": "us-east-1"}, "index", "add", tmp_path / "i", "s3://bucket/f")
    assert (code, "s3://bucket/f: the object store cannot be used" in output) == (1, True)
    assert "the environment gives no credentials" in output or "403" in output


def test_a_server_that_is_not_there_is_said_within_a_minute(tmp_path):
    nowhere = S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    for asked in (["index", "add", tmp_path / "i"], ["embed", "--out", tmp_path / "v.npz"]):
        begun = time.monotonic()
        code, output = command(nowhere, *asked, "s3://bucket/f")
        assert time.monotonic() - begun < 60
        assert (code, "s3://bucket/f: the object store cannot be used" in output) == (1, True)
