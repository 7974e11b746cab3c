"""Pages of PDF files as records: an image of the page, rendered within limits, and the words on it. Loads no torch.

pypdfium2 (the extra ``pdf``) is loaded when a document is opened.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

from puma.errors import DependencyError, ImageError, install_command
from puma.items.digest import ID_LENGTH
from puma.items.encoder import Skip
from puma.items.item import Item
from puma.items.limits import PLAIN, check_memory, most_file_bytes
from puma.items.objects import AnyPath
from puma.search.ingest.fields import FOLDER
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Record, Row, source_of

PAGE_SIDE = 1024
"""Pixels of the longer side of a rendered page, whatever size the document claims."""
PAGE_TEXT = 4000
"""Characters of a page's words that are kept; models read fewer."""
RENDERING = b"pdf page 1, 1024, 4000"
"""Changes whenever the same page would be embedded otherwise."""
INFLATED = 4
"""Bytes a pixel that PDFium holds of an image on a page, at most, while it draws it."""
BY_LINES = ("DCTDecode", "CCITTFaxDecode")
"""Kinds of images of which PDFium holds a few lines only."""
_ONE_AT_A_TIME = threading.RLock()  # PDFium is not made for threads


def pages(path: AnyPath, options: ReadOptions) -> Iterator[Row]:
    """Every page as a record of an image, with its words if it has a text layer. What cannot be rendered is a skip,
    and so is the whole document if it is damaged, locked, too large, or pypdfium2 is missing."""
    source = source_of(path)
    try:
        data = _bytes(path)
        document = _opened(data)
    except (DependencyError, _UnreadableError) as error:
        yield Skip(str(path), str(error), source)
        return
    identity = hashlib.sha256(data).digest()
    try:
        for number in range(1, _length(document) + 1):
            where = f"{path}:{number}"
            try:
                item = _rendered(document, number)
            except _UnreadableError as error:
                yield Skip(where, str(error), source, None, f"{source}#page={number}")
                continue
            content = page_digest(identity, number)
            payload = ({"text": item.text} if item.text else {}) | {"image": f"{source}#page={number}", "page": number}
            payload |= {FOLDER: os.path.dirname(source)}
            yield Record(content, item, payload, content, where, source)
    finally:
        with _ONE_AT_A_TIME:
            document.close()


def page_digest(identity: bytes, number: int) -> str:
    """The content digest of a page. By the document's bytes, not the rendered ones: those may differ by a pixel with
    another pypdfium2.

    Args:
        identity: SHA-256 of the document's bytes.
        number: of the page, from 1.
    """
    return hashlib.sha256(RENDERING + identity + b"%d" % number).hexdigest()[:ID_LENGTH]


def page_item(data: bytes, number: int) -> Item:
    """One page of a document: its image and its words, as :func:`pages` gives it.

    Args:
        data: the document.
        number: of the page, from 1.

    Raises:
        ImageError: it cannot be rendered.
    """
    try:
        document = _opened(data)
        try:
            return _rendered(document, number)
        finally:
            with _ONE_AT_A_TIME:
                document.close()
    except _UnreadableError as error:
        raise ImageError(f"page {number}: {error}") from None


def count_pages(path: AnyPath) -> int:
    """How many pages; 1 where that cannot be seen."""
    try:
        document = _opened(_bytes(path))
    except (DependencyError, _UnreadableError):
        return 1
    with _ONE_AT_A_TIME:
        try:
            return len(document)
        finally:
            document.close()


class _UnreadableError(Exception):
    """A document or page that cannot be used; the message says why."""


def _bytes(path: AnyPath) -> bytes:
    if path.stat().st_size > most_file_bytes():
        raise _UnreadableError(f"{path.stat().st_size:,} bytes are over the limit of {most_file_bytes():,}")
    return path.read_bytes()


def _opened(data: bytes) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise DependencyError(f"PDF pages need pypdfium2: {install_command('pdf')}") from None
    with _ONE_AT_A_TIME:
        try:
            return pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise _UnreadableError(f"cannot be opened as a PDF ({error})") from None


def _length(document: Any) -> int:
    with _ONE_AT_A_TIME:
        return len(document)


def _rendered(document: Any, number: int) -> Item:
    """One page: its image as JPEG bytes (a batch of decoded pages would take gigabytes) and its words."""
    import pypdfium2

    with _ONE_AT_A_TIME:
        try:
            page = document[number - 1]
            try:
                width, height = page.get_size()
                if not (width > 0 and height > 0):
                    raise _UnreadableError("the page has no size")
                scale = min(PAGE_SIDE / max(width, height), 4.0)
                _check_memory(page, (math.ceil(scale * width), math.ceil(scale * height)))
                image = page.render(scale=scale).to_pil().convert("RGB")
                words = page.get_textpage()
                try:
                    text = words.get_text_range(0, min(PAGE_TEXT, words.count_chars()))
                finally:
                    words.close()
            finally:
                page.close()
        except ImageError as error:
            raise _UnreadableError(str(error)) from None
        except (pypdfium2.PdfiumError, ValueError, MemoryError) as error:
            raise _UnreadableError(f"the page cannot be rendered ({error})") from None
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    text = " ".join(text.encode("utf-8", "ignore").decode("utf-8").replace("\0", " ").split())
    return Item(text=text or None, image=stream.getvalue())


def _check_memory(page: Any, size: tuple[int, int]) -> None:
    """Refuse a page before it is drawn, if that would take more memory than one image may: for the page's own pixels,
    or for the largest image on it.

    Args:
        page: of pypdfium2.
        size: width and height in pixels of the drawn page.

    Raises:
        ImageError: it would.
    """
    import pypdfium2

    check_memory("the page", size, PLAIN * size[0] * size[1])
    for image in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]):
        width, height = image.get_px_size()  # as the file claims; nothing is decoded
        filters = image.get_filters()
        if not filters or filters[-1] not in BY_LINES:
            check_memory("an image on the page", (width, height), INFLATED * width * height)
