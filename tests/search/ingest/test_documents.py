"""PDF pages: images and words, stable ids, damage, and a kind word where pypdfium2 is missing."""

import builtins
import sys

import pytest
from PIL import Image

from puma.items import open_image
from puma.items.encoder import Skip
from puma.search import Searcher
from puma.search.ingest import Record, count_items, read_items
from support.encoders import ToyEncoder
from support.objects import Bucket


def pdf(path, *texts, box=(300, 200)):
    """A document by hand: one page a text, an empty one has none."""
    pages = len(texts)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(texts):
        stream = f"BT /F1 24 Tf 20 100 Td ({text}) Tj ET" if text else "1 0 0 rg 10 10 100 100 re f"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {box[0]} {box[1]}] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{offset:010} 00000 n \n" for offset in offsets).encode()
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    path.write_bytes(out)
    return path


def split(path):
    found = list(read_items([path]))
    return [[entry for entry in found if isinstance(entry, kind)] for kind in (Record, Skip)]


def test_each_page_is_a_image_with_its_words(tmp_path):
    pytest.importorskip("pypdfium2")
    path = pdf(tmp_path / "d.pdf", "Red fox", "", "Blue whale")
    records, skips = split(path)
    assert [(record.item.modality, record.item.text) for record in records] == [
        ("image,text", "Red fox"), ("image", None), ("image,text", "Blue whale"),
    ]  # fmt: skip
    assert not skips
    assert records[1].payload == {"image": f"{path}#page=2", "page": 2, "folder": str(tmp_path)}
    assert open_image(records[1].item.image).size == (1024, 683)
    assert len({record.id for record in records}) == 3
    assert [record.id for record in split(path)[0]] == [record.id for record in records]
    assert count_items(path) == 3


def test_a_vast_page_is_rendered_small_and_a_tiny_one_not_blown_up(tmp_path):
    pytest.importorskip("pypdfium2")
    for box, size in (((200_000, 100_000), (1024, 512)), ((10, 10), (40, 40))):
        records, _ = split(pdf(tmp_path / "d.pdf", "", box=box))
        assert open_image(records[0].item.image).size == size


def test_pages_are_found_again_and_go_with_their_document(tmp_path):
    pytest.importorskip("pypdfium2")
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    first, second = pdf(tmp_path / "a.pdf", "Red fox", ""), pdf(tmp_path / "b.pdf", "Blue whale")
    assert searcher.add_paths([first, second], progress=False).embedded == 3
    assert searcher.add_paths([first, second], progress=False, sync=True).present == 3
    assert searcher.search("whale", 1)[0].payload["image"] == f"{second}#page=1"
    pdf(first, "Red fox")
    assert searcher.add_paths([first], progress=False, sync=True).deleted == 2  # another document, a page fewer
    second.unlink()
    assert searcher.add_paths([second], progress=False, sync=True, allow_empty=True).deleted == 1
    assert len(searcher.index) == 1


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4\n", b"no pdf at all"])
def test_a_damaged_document_is_a_skip(tmp_path, data):
    pytest.importorskip("pypdfium2")
    (tmp_path / "d.pdf").write_bytes(data)
    records, skips = split(tmp_path / "d.pdf")
    assert not records
    assert "cannot be opened as a PDF" in skips[0].reason
    assert skips[0].source == str(tmp_path / "d.pdf")


def test_without_pypdfium2_the_skip_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pypdfium2"]:
        monkeypatch.delitem(sys.modules, name)
    plain = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "pypdfium2":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    path = pdf(tmp_path / "d.pdf", "Red fox")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    added = Searcher(ToyEncoder(), tmp_path / "index").add_paths([path, tmp_path / "a.png"], progress=True)
    assert added.embedded == 1
    assert added.skips[0].reason == "PDF pages need pypdfium2: pip install 'puma-retrieval[pdf]'"


def test_a_document_in_an_object_store_gives_its_pages(tmp_path, monkeypatch):
    pytest.importorskip("pypdfium2")
    pytest.importorskip("obstore")
    (tmp_path / "d").mkdir()
    pdf(tmp_path / "d/two.pdf", "one fox", "two foxes")
    address = Bucket(monkeypatch).upload(tmp_path / "d", "d")
    here, there = read_items([tmp_path / "d"]), read_items([address])
    for one, other in zip(here, there, strict=True):
        assert (one.content, one.item.text) == (other.content, other.item.text)
        assert one.payload["image"] == other.payload["image"].replace(address, str(tmp_path / "d"))
