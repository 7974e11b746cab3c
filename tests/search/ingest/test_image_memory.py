"""The memory that decoding an image may take, and the size of files that goes with it: they hold wherever an image
comes from."""

import base64
import io
import json

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from puma.cli import app as cli
from puma.cli.commands import _engine
from puma.cli.commands._engine import Engine
from puma.errors import ModelError
from puma.items import Item, limits, remote
from puma.items.encoder import Skip
from puma.search import Searcher
from puma.search.ingest import read_items
from puma.search.ingest.documents import page_item
from puma.search.originals import NoOriginalError, original
from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder
from support.inline_ray import InlineRay
from support.served import data_uri, png

MIB = 2**20
TOO_LARGE = "{} pixels take about 1 MiB to decode, over the limit of 1; scale the image down, or raise the limit"


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(limits, "_memory", limits.MAX_MEMORY)
    return limits.set_image_memory


def pdf(path, kind="", size=(600, 500), box=(50, 50)):
    """A page by hand, with an image of a kind and size if one is named."""
    stream = b"q 50 0 0 50 0 0 cm /Im Do Q" if kind else b"1 0 0 rg 0 0 50 50 re f"
    made = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(made, "JPEG")
    data = made.getvalue()
    if kind == "FlateDecode":
        import zlib

        data = zlib.compress(bytes(size[0] * size[1] * 3))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R "
        b"/Resources << /XObject << /Im 5 0 R >> >> >>" % box,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceRGB /BitsPerComponent 8 "
        b"/Filter /%s /Length %d >>\nstream\n%s\nendstream" % (*size, (kind or "DCTDecode").encode(), len(data), data),
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    path.write_bytes(out + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start)
    return path


def only(path):
    (entry,) = read_items([path])
    return entry


def test_an_image_on_a_page_is_refused_before_it_is_decoded(memory, tmp_path):
    pytest.importorskip("pypdfium2")
    path = pdf(tmp_path / "d.pdf", "FlateDecode")
    assert not isinstance(only(path), Skip)
    memory(MIB)
    assert isinstance(only(path), Skip)
    assert only(path).reason == f"an image on the page: {TOO_LARGE.format('600 x 500')} (--image-memory)"
    with pytest.raises(ValueError, match="page 1: an image on the page: 600 x 500 pixels"):
        page_item(path.read_bytes(), 1)
    # PDFium holds a few lines of a JPEG, whatever its size.
    assert not isinstance(only(pdf(tmp_path / "e.pdf", "DCTDecode")), Skip)


def test_a_page_that_would_be_drawn_too_large_is_refused(memory, tmp_path):
    pytest.importorskip("pypdfium2")
    path = pdf(tmp_path / "d.pdf", box=(300, 200))
    assert not isinstance(only(path), Skip)
    memory(MIB)
    assert only(path).reason.startswith("the page: 1024 x 683 pixels take about 5 MiB to decode, over the limit of 1;")


def test_a_data_uri_in_a_list_is_refused_as_a_file_is(memory, tmp_path):
    data = png(size=(500, 400))
    (tmp_path / "a.png").write_bytes(data)
    lines = [{"image": data_uri(data)}, {"image": "a.png", "id": "file"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    memory(MIB)
    added = Searcher(ToyEncoder(), tmp_path / "my.index").add_paths([tmp_path / "rows.jsonl"], progress=False)
    assert added.embedded == 0
    assert [TOO_LARGE.format("500 x 400") in skip.reason for skip in added.skips] == [True, True]


def test_the_size_of_what_is_read_follows_a_memory_that_is_raised(memory, tmp_path, monkeypatch):
    pytest.importorskip("pypdfium2")
    monkeypatch.setattr(limits, "MAX_BYTES", 100)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": data_uri(png(size=(64, 64)) + b"\0" * 200)}) + "\n")
    path = pdf(tmp_path / "d.pdf")
    for source in (tmp_path / "rows.jsonl", path):
        assert "bytes are over the limit of 100" in only(source).reason
    memory(2 * limits.MAX_MEMORY)
    for source in (tmp_path / "rows.jsonl", path):
        assert not isinstance(only(source), Skip)
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    searcher.add_paths([path], progress=False)
    ((name,),) = ([row.id for row in rows] for rows in searcher.index.scan())
    assert original(searcher.index, name).data == path.read_bytes()
    memory(limits.MAX_MEMORY)
    with pytest.raises(NoOriginalError):
        original(searcher.index, name)


def test_the_original_of_a_panorama_is_given_as_the_image_that_it_is(tmp_path):
    made = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(made, "PNG")  # beyond what Pillow opens by itself
    (tmp_path / "wide.png").write_bytes(made.getvalue())
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    assert searcher.add_paths([tmp_path / "wide.png"], progress=False).embedded == 1
    ((name,),) = ([row.id for row in rows] for rows in searcher.index.scan())
    assert original(searcher.index, name).media_type == "image/png"


def test_an_image_in_a_request_is_refused_with_the_same_words(memory):
    client = TestClient(create_app(encoder=ToyEncoder(), settings=ServeSettings()), base_url="http://127.0.0.1")
    with client:
        body = {"input": [{"image": base64.b64encode(png(size=(500, 400))).decode()}]}
        assert client.post("/v1/embeddings", json=body).status_code == 200
        memory(MIB)
        answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 400
    assert f"{TOO_LARGE.format('500 x 400')} (--image-memory)" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "command",
    [
        ["index", "add", "my.index", "a.png"],
        ["index", "migrate", "my.index", "--model", "toy"],
        ["embed", "a.png", "--out", "out.npz"],
        ["search", "my.index", "red"],
        ["serve", "my.index", "--port", "0"],
    ],
)
def test_every_command_that_decodes_takes_the_limit(command, tmp_path, monkeypatch):
    seen = []

    def load(*_, **__):
        seen.append(limits.image_memory())
        raise ModelError("seen enough")

    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "toy").mkdir()
    Searcher(ToyEncoder(), tmp_path / "my.index").add(["red"])
    monkeypatch.setenv("PUMA_MODEL", "toy")
    assert cli.main([*command, "--image-memory", "3"]) == 2
    assert seen == [3 * MIB]


def test_workers_of_a_cluster_have_the_limit_of_the_command(memory, monkeypatch):
    monkeypatch.setattr(_engine, "load_encoder", lambda *_, **__: ToyEncoder())
    monkeypatch.setattr(remote, "connected", lambda *given: InlineRay())
    set_in_worker = []
    monkeypatch.setattr(_engine, "set_image_memory", set_in_worker.append)
    memory(5 * MIB)
    with Engine("ray", workers=1).encoder(None) as encoder:
        encoder.encode([Item(text="a red fox")])
    assert set_in_worker == [5 * MIB]
