"""Thousands of damaged, lying and hostile images, made from real ones by a seed. Shared with
benchmarks/fuzz_images.py.

Here: :func:`seeds`, the sound images of every format and mode; :func:`bombs`, small files that ask for a lot;
:func:`mutated`, a stream of damaged ones. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

SIDES = (37, 23)


def seeds() -> dict[str, bytes]:
    """Sound images by name: every format we read, in the modes it can hold."""
    noise = np.random.default_rng(5)
    colour = Image.fromarray(noise.integers(0, 256, (SIDES[1], SIDES[0], 3), dtype=np.uint8))
    smooth = Image.linear_gradient("L").resize(SIDES)
    deep = Image.fromarray(noise.integers(0, 65536, (SIDES[1], SIDES[0]), dtype=np.uint16))
    real = Image.fromarray(noise.random((SIDES[1], SIDES[0]), dtype=np.float32))
    clear = colour.copy()
    clear.putalpha(smooth)
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    frames = [colour.rotate(90 * turn).convert("P") for turn in range(4)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a note"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0more"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "plain " * 20)
    notes.add_text("Deflated", "packed " * 200, zip=True)
    notes.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>', zip=True)
    profile = bytes(range(256)) * 4
    found = {
        "png": _saved(colour, "PNG", pnginfo=notes, icc_profile=profile, exif=exif),
        "png-clear": _saved(clear, "PNG"),
        "png-grey-clear": _saved(clear.convert("LA"), "PNG"),
        "png-palette": _saved(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "png-one-bit": _saved(smooth.convert("1"), "PNG"),
        "png-16": _saved(deep, "PNG"),
        "apng": _saved(colour, "PNG", save_all=True, append_images=[colour.rotate(180), colour], duration=40),
        "jpeg": _saved(colour, "JPEG", exif=exif, icc_profile=profile, comment=b"a comment"),
        "jpeg-progressive": _saved(colour, "JPEG", progressive=True, quality=90),
        "jpeg-grey": _saved(smooth, "JPEG"),
        "jpeg-cmyk": _saved(colour.convert("CMYK"), "JPEG"),
        "webp": _saved(colour, "WEBP", exif=exif, icc_profile=profile),
        "webp-lossless": _saved(clear, "WEBP", lossless=True),
        "webp-frames": _saved(clear, "WEBP", save_all=True, append_images=[clear.rotate(90)]),
        "gif": _saved(palette, "GIF", comment=b"a comment", transparency=3),
        "gif-frames": _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0, disposal=2),
        "bmp": _saved(colour, "BMP"),
        "bmp-palette": _saved(palette, "BMP"),
        "bmp-rle": run_length_bmp(*SIDES, b"".join(bytes([SIDES[0], row, 0, 0]) for row in range(SIDES[1]))),
        "tiff": _saved(colour, "TIFF", tiffinfo={0x0112: 8, 0x010E: "a note"}),
        "tiff-lzw": _saved(colour, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": _saved(clear, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": _saved(colour, "TIFF", compression="jpeg"),
        "tiff-fax": _saved(smooth.convert("1"), "TIFF", compression="group4"),
        "tiff-cmyk": _saved(colour.convert("CMYK"), "TIFF"),
        "tiff-lab": _saved(colour.convert("YCbCr"), "TIFF"),
        "tiff-16": _saved(deep, "TIFF"),
        "tiff-float": _saved(real, "TIFF"),
        "tiff-frames": _saved(colour.copy(), "TIFF", save_all=True, append_images=[smooth.copy(), clear.copy()]),
        "tiff-big": _saved(colour, "TIFF", big_tiff=True),
        "ppm": _saved(colour, "PPM"),
        "pgm-16": _saved(deep, "PPM"),
        "pbm": _saved(smooth.convert("1"), "PPM"),
        "pfm": _saved(real, "PPM"),
        "ppm-plain": b"P3\n# plain\n3 2\n255\n" + b" ".join(str(value * 14).encode() for value in range(18)) + b"\n",
        "ppm-odd": b"P6\n3 2\n100\n" + bytes(range(18)),
    }
    return found


def bombs() -> dict[str, bytes]:
    """Small files that ask for much memory or time. None of them is an image anyone would miss."""
    sides = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    packed = zlib.compress(bytes(30_000_000), 9)
    long_text = b"k\0\0" + packed
    jpeg = _saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    huge_jpeg = _resized_jpeg(jpeg, 8000, 9000)
    loop = struct.pack("<2sHLHHHLLL", b"II", 42, 8, 1, 256, 4, 1, 8, 8)
    return {
        "png-sides": _png(sides + b"\x08\x02\0\0\0", [(b"IDAT", packed)]),
        "png-pixels": _png(struct.pack(">II", 40_000, 40_000) + b"\x08\x02\0\0\0", [(b"IDAT", packed)]),
        "png-below-limit": _png(struct.pack(">II", 8000, 8000) + b"\x08\x02\0\0\0", [(b"IDAT", packed[:100])]),
        "png-text": _png(_header(4, 4), [(b"zTXt", long_text)] * 8),
        "png-itxt": _png(_header(4, 4), [(b"iTXt", b"k\0\1\0\0\0" + packed)] * 8),
        "png-profile": _png(_header(4, 4), [(b"iCCP", long_text)]),
        "png-chunks": _png(_header(4, 4), [(b"tRNS", b"")] * 150_000),
        "apng-frames": _png(_header(4, 4), [(b"acTL", struct.pack(">II", 2**31 - 1, 0))]),
        "jpeg-scans": jpeg[:-2] + scan * 3000 + b"\xff\xd9",
        "jpeg-scans-large": huge_jpeg[:-2] + scan * 100 + b"\xff\xd9",
        "jpeg-sides": _resized_jpeg(jpeg, 65500, 65500),
        "jpeg-segments": jpeg[:2] + b"\xff\xfe\0\2" * 150_000 + jpeg[2:],
        "jpeg-junk": jpeg[:2] + bytes(2_000_000) + jpeg[2:],
        "jpeg-fill": jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:],
        "gif-sides": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        "gif-frame-sides": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 65535, 65535) + b"\0\2\2D\1\0;",
        "gif-comments": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + b"\1x" * 150_000 + b"\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        "gif-frames": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0" * 50_000 + b";",
        "bmp-sides": run_length_bmp(2**31 - 1, 2**31 - 1, b"\0\2\xff\xff" * 10),
        "bmp-line": run_length_bmp(79_000_000, 1, b"\1\1\0\0"),
        "bmp-jump": run_length_bmp(39_000_000, 2, b"\0\2\xff\xff" * 10),
        "webp-canvas": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2,
        "tiff-loop": loop,
        "tiff-strips": tiff({273: (4, 20_000_000, 8), 278: (4, 1, 1)}, width=1, height=70_000_000),
        "tiff-tile": tiff({322: (4, 1, 60_000), 323: (4, 1, 60_000), 324: (4, 1, 8), 325: (4, 1, 100), 259: (3, 1, 8)}),
        "tiff-samples": tiff({277: (4, 1, 10_000_000), 258: (3, 1, 8), 273: (4, 1, 8)}),
        "tiff-overlap": tiff({tag: (7, 200_000, 8) for tag in range(40_000, 55_000)}),
        "tiff-fax-rows": tiff({259: (3, 1, 4), 258: (3, 1, 1), 273: (4, 1, 8)}, width=1, height=70_000_000),
        "ppm-sides": b"P6 99999999 99999999 255\n",
        "ppm-slow": b"P6 8000 8000 254\n" + bytes(1000),
        "ppm-plain": b"P3 8000 8000 255\n" + b"1 " * 500_000,
        "ppm-comment": b"P6\n#" + b"x" * 500_000,
        "ppm-comments": b"P2 9 9 255\n" + b"#\n" * 500_000,
    }


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged images with what was done to each; the bombs come first, sound and damaged."""
    chance = random.Random(seed)
    sound = seeds()
    hostile = bombs()
    given = 0
    for name, data in hostile.items():
        if given < count:
            yield f"bomb {name}", data
            given += 1
    names = sorted(sound)
    ways = (_flip, _cut, _lie, _swap, _repeat, _splice, _polyglot, _poke, _garbage)
    while given < count:
        name = names[given % len(names)]
        data = sound[name]
        if chance.random() < 0.02:
            name, data = chance.choice([pair for pair in hostile.items() if len(pair[1]) < 100_000])
        done = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            way = chance.choice(ways)
            data = way(data, chance, sound)
            done.append(way.__name__[1:])
        yield f"{name} {'+'.join(done)}", data
        given += 1


def _flip(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    changed = bytearray(data)
    # Mostly in the first part: that is where sizes, counts and offsets are.
    reach = len(changed) if chance.random() < 0.3 else min(len(changed), 400)
    for _ in range(chance.choice((1, 2, 8, 64)) if reach else 0):
        changed[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _lie(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    """Another size in the header: of any number, also those just below the limits."""
    width, height = (chance.choice((0, 1, 255, 1999, 8943, 20_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1)) for _ in "wh")
    if data.startswith(b"\x89PNG") and len(data) > 33:
        head = struct.pack(">II", width, height) + data[24:29]
        return data[:12] + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        return _resized_jpeg(data, width & 0xFFFF, height & 0xFFFF)
    if data.startswith(b"GIF8"):
        data = data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
        place = data.find(b",") if chance.random() < 0.5 else -1
        return data if place < 0 else data[: place + 5] + struct.pack("<HH", 65535, height & 0xFFFF) + data[place + 9 :]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if data[:1] == b"P":
        return data.replace(b"%d %d" % SIDES, b"%d %d" % (width, height), 1)
    if data[:4] == b"RIFF" and data[12:16] == b"VP8X":
        return data[:24] + struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3] + data[30:]
    if data[:2] in (b"II", b"MM"):
        # Any value that could be a side, wherever it stands.
        for side, new in zip(SIDES, (width, height), strict=True):
            for form in ("<H", "<L"):
                data = data.replace(
                    struct.pack(form, side), struct.pack(form, new & (0xFFFF if form[1] == "H" else -1)), 2
                )
    return data


def _swap(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    """Two parts exchanged: PNG chunks where there are such, else stretches."""
    if data.startswith(b"\x89PNG"):
        chunks = _chunks(data)
        if len(chunks) > 2:
            a, b = chance.sample(range(len(chunks)), 2)
            chunks[a], chunks[b] = chunks[b], chunks[a]
        return data[:8] + b"".join(chunks)
    marks = sorted(chance.randrange(len(data) + 1) for _ in range(4))
    a, b, c, d = marks
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _repeat(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    if data.startswith(b"\x89PNG"):
        chunks = _chunks(data)
        place = chance.randrange(len(chunks)) if chunks else 0
        return data[:8] + b"".join(chunks[:place] + chunks[place : place + 1] * chance.choice((2, 50)) + chunks[place:])
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((4, 40, 400)))
    return data[:end] + data[start:end] * chance.choice((1, 20, 200)) + data[end:]


def _splice(data: bytes, chance: random.Random, sound: dict[str, bytes]) -> bytes:
    """The head of one and the tail of another."""
    other = sound[chance.choice(sorted(sound))]
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _polyglot(data: bytes, chance: random.Random, sound: dict[str, bytes]) -> bytes:
    """Two formats in one file, or a program beside an image."""
    other = chance.choice(
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"PK\3\4", b"GIF89a", b"\xff\xd8\xff")
    )
    return other + data if chance.random() < 0.5 else data + other + sound[chance.choice(sorted(sound))]


def _poke(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    """A number that matters, at any place: all ones, zero, the sign bit, just below."""
    if len(data) < 8:
        return data
    place = chance.randrange(min(len(data) - 4, 600))
    number = chance.choice(
        (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\xff\xff")
    )
    return data[:place] + number + data[place + len(number) :]


def _garbage(data: bytes, chance: random.Random, _: dict[str, bytes]) -> bytes:
    """A sound start, then noise; in EXIF and other notes where they come first."""
    keep = chance.choice((4, 16, 64, 200))
    return data[:keep] + chance.randbytes(chance.choice((10, 1000))) + data[keep:]


def run_length_bmp(width: int, height: int, code: bytes) -> bytes:
    """A BMP of 8 bits a pixel, run-length encoded."""
    table = bytes(range(256)) * 4
    start = 54 + len(table)
    head = struct.pack("<2sIHHI", b"BM", start + len(code), 0, 0, start)
    info = struct.pack("<IIIHHIIIIII", 40, width, height, 1, 8, 1, len(code), 0, 0, 256, 0)
    return head + info + table + code


def tiff(tags: dict[int, tuple[int, int, int]], width: int = 10, height: int = 10) -> bytes:
    """A little-endian TIFF of these tags, ``tag: (type, count, value or offset)``, and room after them."""
    every = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)} | tags
    rows = b"".join(struct.pack("<HHLL", tag, *row) for tag, row in sorted(every.items()))
    return struct.pack("<2sHL", b"II", 42, 8) + struct.pack("<H", len(every)) + rows + bytes(1004)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _header(width: int, height: int) -> bytes:
    return struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


def _png(header: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    pixels = [] if any(kind == b"IDAT" for kind, _ in chunks) else [(b"IDAT", zlib.compress(bytes(52)))]
    every = [(b"IHDR", header), *chunks, *pixels, (b"IEND", b"")]
    packed = {
        pair: struct.pack(">I", len(pair[1])) + pair[0] + pair[1] + struct.pack(">I", zlib.crc32(pair[0] + pair[1]))
        for pair in set(every)
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed[pair] for pair in every)


def _chunks(data: bytes) -> list[bytes]:
    found, place = [], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        found.append(data[place:end])
        place = end
    return found


def _resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    for mark in (b"\xff\xc0", b"\xff\xc2"):
        place = data.find(mark)
        if place >= 0:
            return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]
    return data
