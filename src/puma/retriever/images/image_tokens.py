"""How many tokens an image becomes: the processor's limits, set once when a retriever is made of a base."""

from __future__ import annotations

from typing import Any

from puma.errors import InputError


def limit_image_tokens(processor: Any, fewest: int, most: int) -> None:
    """Set a processor's image sizes so that an image becomes ``fewest`` to ``most`` tokens. In place; it is saved
    with the processor.

    Qwen-VL's processors scale an image to a number of pixels, one token a merged patch (28 x 28 pixels in Qwen2-VL).
    SmolVLM's and Idefics3's cut large images into tiles of a fixed number of tokens; they are left whole where the
    limit asks for it.

    Args:
        processor: a multimodal processor.
        fewest, most: tokens of an image, 1 <= fewest <= most. The paper has 4 and 300.

    Raises:
        InputError: the numbers do not fit, or this processor's images have one size that cannot be limited so.
    """
    limits = f"image_tokens=({fewest}, {most})"
    if not (isinstance(fewest, int) and isinstance(most, int) and 1 <= fewest <= most):
        raise InputError(f"{limits}: give whole numbers, 1 <= fewest <= most")
    images = processor.image_processor
    patch, merge = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
    if isinstance(patch, int) and isinstance(merge, int):
        cell = (patch * merge) ** 2  # pixels a token
        images.size = {"shortest_edge": fewest * cell, "longest_edge": most * cell}
        return
    whole = getattr(processor, "image_seq_len", None)
    if hasattr(images, "do_image_splitting") and isinstance(whole, int):
        if most < whole:
            raise InputError(
                f"{limits}: a whole picture is {whole} tokens in this base; give at least that as the most"
            )
        images.do_image_splitting = False
        return
    raise InputError(f"{limits}: pictures have one size in this base, and no limit to set; leave image_tokens out")
