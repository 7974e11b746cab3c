"""Items through any encoder, past images that cannot be opened or that only the encoder's own processor refuses."""

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item
from puma.items.encoder import embed_readable


class Choosy:
    """Refuses images of a width it does not like, as a model's processor may, and counts what it is given."""

    dim = 2

    def __init__(self, refuses=()):
        self.refuses, self.given = refuses, 0

    def encode(self, items, *, instruction=None):
        self.given += len(items)
        for item in items:
            image = item.open_image()
            if image is not None and image.width in self.refuses:
                raise ImageError(f"<image>: the model's image processor refuses it ({image.width} x 5 pixels)")
        return np.array([[len(item.text or ""), 1] for item in items], dtype=np.float32)


def items(tmp_path):
    made = [Item(text="a" * n, image=Image.new("RGB", (n + 1, 5))) for n in range(20)]
    made[4] = Item(text="gone", image=tmp_path / "gone.png")
    return made


def test_what_the_encoder_refuses_is_left_out_and_named(tmp_path):
    encoder = Choosy(refuses=(8, 14))
    vectors, readable, faults = embed_readable(encoder, items(tmp_path), batch_size=16)
    assert [place for place, _ in faults] == [4, 7, 13]
    assert "no such file" in faults[0][1]
    assert "refuses it (8 x 5 pixels)" in faults[1][1]
    assert np.flatnonzero(~readable).tolist() == [4, 7, 13]
    assert vectors[readable][:, 0].tolist() == [n for n in range(20) if n not in (4, 7, 13)]
    assert not vectors[~readable].any()
    assert encoder.given < 20 + 16 * 6


def test_an_encoder_that_refuses_everything_ends_with_nothing(tmp_path):
    _, readable, faults = embed_readable(Choosy(refuses=range(99)), items(tmp_path)[5:9])
    assert not readable.any()
    assert len(faults) == 4


def test_other_errors_are_not_swallowed():
    class Broken(Choosy):
        def encode(self, items, *, instruction=None):
            raise InputError("instruction=7")

    with pytest.raises(InputError, match="instruction=7"):
        embed_readable(Broken(), [Item(text="a")])
