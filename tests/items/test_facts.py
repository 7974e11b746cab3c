"""Size and date from an image's header, without decoding it."""

import io

import pytest
from PIL import ExifTags, Image

from puma.items.facts import image_facts

TAKEN = ExifTags.Base.DateTimeOriginal


def encoded(kind="JPEG", size=(30, 20), *, turn=None, taken=None, changed=None):
    exif = Image.Exif()
    if turn:
        exif[ExifTags.Base.Orientation] = turn
    if changed:
        exif[ExifTags.Base.DateTime] = changed
    if taken:
        exif.get_ifd(ExifTags.IFD.Exif)[TAKEN] = taken
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, kind, **({"exif": exif} if turn or taken or changed else {}))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_sizes_of_every_format(kind):
    assert image_facts(encoded(kind)) == {"width": 30, "height": 20}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_sizes_are_upright_as_it_is_opened(kind, turn):
    from puma.items import open_image

    data = encoded(kind, turn=turn)
    facts = image_facts(data)
    if kind != "PNG":  # whose notes stand behind the pixels, or are not looked for there
        assert (facts["width"], facts["height"]) == open_image(data).size
    assert {facts["width"], facts["height"]} == {20, 30}


@pytest.mark.parametrize(
    ("given", "date"),
    [
        ({"taken": "2024:05:31 18:30:00"}, "2024-05-31T18:30:00"),
        ({"taken": "2024:05:31 18:30:00", "changed": "2025:01:01 00:00:00"}, "2024-05-31T18:30:00"),
        ({"changed": "2023-01-02 03:04:05"}, "2023-01-02T03:04:05"),
        ({"taken": "0000:00:00 00:00:00", "changed": "2023:01:02 03:04:05"}, "2023-01-02T03:04:05"),
        ({"taken": "2024:13:31 18:30:00"}, None),
        ({"taken": "    :  :     :  :  "}, None),
        ({"taken": "yesterday"}, None),
        ({}, None),
    ],
)
def test_dates(given, date):
    assert image_facts(encoded(**given)).get("date") == date


def test_nothing_of_what_is_no_image_and_nothing_is_decoded(monkeypatch):
    for data in (b"", b"hello", encoded()[:20], b"\xff\xd8" + b"\0" * 100, encoded("PNG")[:10]):
        assert image_facts(data) == {}

    def no_decoding(self):
        raise AssertionError("decoded")

    data = {kind: encoded(kind, taken="2024:05:31 18:30:00") for kind in ("JPEG", "PNG", "WEBP", "TIFF")}
    monkeypatch.setattr(Image.Image, "load", no_decoding)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding)
    for kind, each in data.items():
        assert image_facts(each)["width"] == 30, kind


def test_damaged_notes_cost_only_themselves():
    data = encoded(taken="2024:05:31 18:30:00")
    place = data.index(b"Exif")
    for shift in range(6, 60):
        facts = image_facts(data[: place + shift] + b"\xff" + data[place + shift + 1 :])
        assert facts == {} or (facts["width"], facts["height"]) in ((30, 20), (20, 30))
