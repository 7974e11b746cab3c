"""What a model does to see images, counted."""

import functools

from puma.retriever.encoding import seen_images
from puma.retriever.inputs import Inputs


def counted_seeing(retriever, monkeypatch):
    """How many images were read by the processor, and how many passes went through the tower; nothing in memory yet."""
    counts = {"read": 0, "passes": 0}
    features, look = Inputs.features, type(retriever.model).get_image_features

    def reading(self, items, *args, **options):
        counts["read"] += sum(item.image is not None for item in items)
        return features(self, items, *args, **options)

    @functools.wraps(look)  # whose arguments are looked up
    def looking(self, *args, **options):
        counts["passes"] += 1
        return look(self, *args, **options)

    monkeypatch.setattr(Inputs, "features", reading)
    monkeypatch.setattr(type(retriever.model), "get_image_features", looking)
    monkeypatch.setattr(seen_images, "MEMORIES", type(seen_images.MEMORIES)())
    return counts
