"""Gradient caching: batches with images cut right, gradients equal to plain ones on tiny models, bounded memory."""

import weakref

import pytest
import torch

from puma.errors import InputError
from puma.losses.gradcache import cached_states, split_part
from puma.training.objective import RetrievalObjective
from support import tiny

PAIRS = 5
SIZES = ((4, 4), (4, 8), (8, 4), (2, 4))
"""Images in patches, for the family that takes any size."""


class Piped(torch.nn.Module):
    """A tiny real model behind the pipeline's interface; counts what autograd keeps of it."""

    def __init__(self, family):
        super().__init__()
        self.model = tiny.build(family)
        self.model.requires_grad_(False)
        self.model.get_decoder().layers.requires_grad_(True)
        self.alive = self.peak = 0

    def forward(self, chunk):
        assert not any(key.startswith("puma_") for key in chunk)

        def pack(tensor):
            kept = Kept(tensor)
            self.alive += kept.bytes
            self.peak = max(self.peak, self.alive)
            weakref.finalize(kept, self.release, kept.bytes)
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            return {"token_embeddings": self.model.model(**chunk, use_cache=False).last_hidden_state}

    def release(self, count):
        self.alive -= count


class Kept:
    def __init__(self, tensor):
        self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()


def collated(family, rows, ragged=True):
    """One padded batch of rows ``(seed, has an image)``, as the family's processor would lay it out."""
    made = []
    for seed, with_image in rows:
        length = 5 + seed % 4 if ragged else 6
        one = tiny.inputs(family, with_image=with_image, length=length, seed=seed)
        if with_image and family.startswith("qwen"):
            height, width = SIZES[seed % len(SIZES)]
            g = torch.Generator().manual_seed(seed)
            tokens = height * width // 4
            ids = [392, *[390] * tokens, 393, *torch.randint(5, 300, (length,), generator=g).tolist()]
            one = {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                "pixel_values": torch.randn(height * width, 96, generator=g),
                "image_grid_thw": torch.tensor([[1, height, width]]),
            }
            one["mm_token_type_ids"] = (one["input_ids"] == 390).long()
        made.append(one)
    if family.startswith("qwen"):
        for one in made:
            one.setdefault("mm_token_type_ids", torch.zeros_like(one["input_ids"]))
    long = max(one["input_ids"].shape[1] for one in made)
    batch = {}
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in made[0]:
            batch[key] = torch.cat([torch.nn.functional.pad(one[key], (0, long - one[key].shape[1])) for one in made])
    shown = [one for one in made if "pixel_values" in one]
    if shown and family in ("smolvlm", "idefics3"):  # a row an item, zeros where there is no image
        for key in ("pixel_values", "pixel_attention_mask"):
            blank = torch.zeros_like(shown[0][key])
            batch[key] = torch.cat([one.get(key, blank) for one in made])
    elif shown:
        for key in ("pixel_values", "image_grid_thw"):
            if key in shown[0]:
                batch[key] = torch.cat([one[key] for one in shown])
    return batch


def chunk_of(family, pairs=PAIRS, images=True, ragged=True):
    """One chunk with the whole batch: items in a shuffled order, about half of them with images."""
    n = 2 * pairs
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    rows = [(int(i), bool(images and (i * 7) % 5 < 2)) for i in order]
    chunk = collated(family, rows, ragged)
    chunk |= {"puma_rows": order, "puma_with_image": torch.tensor([with_image for _, with_image in rows])}
    modality = torch.arange(pairs) % 2
    return chunk | {
        "puma_target_modality": modality,
        "puma_candidate_modality": modality,
        "puma_candidate_key": torch.arange(pairs),
        "puma_content_key": torch.arange(pairs),
        "puma_known": torch.arange(pairs)[:, None],
        "puma_teacher": torch.randn(n, tiny.HIDDEN, generator=torch.Generator().manual_seed(9)),
        "puma_taught": torch.arange(n) % 3 > 0,
    }


def step(model, chunks, **options):
    objective = RetrievalObjective(
        model, temperature=0.1, decay=1.0, distillation_weight=0.5, symmetric=True, **options
    )
    model.zero_grad()
    torch.manual_seed(5)
    terms = objective([dict(chunk) for chunk in chunks])
    sum(terms.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in terms.items()}, gradients


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert max(float(g.abs().max()) for g in one[1].values()) > 1e-2
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3", "llava", "fast_vlm"])
def test_gradients_equal_the_plain_ones(family):
    """Texts and images of several sizes in one batch; parts with and without images, and a last part of one."""
    model = Piped(family).eval()
    chunk = chunk_of(family)
    plain = step(model, [chunk])
    assert_same(plain, step(model, [chunk], grad_cache=3))
    assert_same(plain, step(model, [chunk], grad_cache=100))
    split = step(model, [chunk], loss="split-mac", other_weight=0.3)
    assert split[0]["contrastive"] != pytest.approx(plain[0]["contrastive"], rel=1e-3)
    assert_same(split, step(model, [chunk], loss="split-mac", other_weight=0.3, grad_cache=3))
    nested = step(model, [chunk], loss="split-mac", dimensions=(4, 8))
    assert nested[0]["contrastive"] != pytest.approx(split[0]["contrastive"], rel=1e-3)
    assert_same(nested, step(model, [chunk], loss="split-mac", dimensions=(4, 8), grad_cache=3))


def test_random_numbers_are_those_of_the_first_pass():
    """With dropout, the same parts in the same order make the same loss and gradient, and the generator ends alike."""
    model = Piped("llava").train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    chunk = chunk_of("llava")
    output = {
        key: value
        for key, value in chunk.items()
        if key.startswith("puma_") and key not in ("puma_rows", "puma_with_image")
    }
    parts = split_part({key: value for key, value in chunk.items() if key not in output}, 3)
    parts[0] |= output
    plain = step(model, parts)
    after = torch.get_rng_state()
    assert_same(plain, step(model, [chunk], grad_cache=3))
    assert torch.equal(after, torch.get_rng_state())
    model.eval()
    assert step(model, parts)[0] != pytest.approx(plain[0], rel=1e-4), "dropout did nothing"


def test_autocast_is_that_of_the_first_pass():
    """The backward pass runs outside the caller's autocast, the second forward must not."""
    linear, seen = torch.nn.Linear(4, 4), []

    def run(part):
        out = linear(part["x"])
        seen.append(out.dtype)
        return out

    parts = [{"x": torch.ones(2, 4)}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = cached_states(run, run, parts, linear)
    states.float().sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_six_hundred_pairs_need_no_more_memory_than_sixty():
    """Bytes that autograd keeps of the model at once: bounded by the part, not by the batch."""
    model = Piped("fast_vlm").eval()
    peaks = {}
    for pairs, cache in ((60, 20), (600, 20), (60, 0)):
        model.peak = 0
        step(model, [chunk_of("fast_vlm", pairs, images=False, ragged=False)], grad_cache=cache)
        assert model.alive == 0, "something of the graph is still held"
        peaks[pairs, cache] = model.peak
    assert peaks[600, 20] == peaks[60, 20]
    assert peaks[60, 0] > 5 * peaks[600, 20], "six parts of twenty items: the plain step keeps them all"


def test_pieces_hold_their_own_images():
    """Patches of uneven images, with texts between: each piece has exactly its items' patches."""
    with_image = torch.tensor([False, True, True, False, True])
    grid = torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 2]])
    owner = torch.repeat_interleave(torch.tensor([1, 2, 4]), grid.prod(1))
    part = {
        "input_ids": torch.arange(5)[:, None],
        "pixel_values": owner[:, None],
        "image_grid_thw": grid,
        "puma_rows": torch.arange(5),
        "puma_with_image": with_image,
        "modality": "message",
    }
    pieces = split_part(part, 2)
    assert [piece["input_ids"].flatten().tolist() for piece in pieces] == [[0, 1], [2, 3], [4]]
    assert [piece["pixel_values"].flatten().tolist() for piece in pieces] == [[1] * 4, [2] * 8, [4] * 4]
    assert [piece["image_grid_thw"].tolist() for piece in pieces] == [[[1, 2, 2]], [[1, 4, 2]], [[1, 2, 2]]]
    assert all(piece["modality"] == "message" for piece in pieces)
    first = split_part(part, 1)[0]
    assert "pixel_values" not in first
    assert "image_grid_thw" not in first
    assert split_part(part, 5) == [part]


def test_faults_are_named():
    part = {"puma_rows": torch.arange(4), "puma_with_image": torch.tensor([True, False, True, True])}
    with pytest.raises(InputError, match="grad_cache=0"):
        split_part(part, 0)
    with pytest.raises(InputError, match=r"tiles.*grad_cache cannot cut"):
        split_part({**part, "tiles": torch.zeros(7, 2)}, 2)
    with pytest.raises(InputError, match="puma_with_image"):
        split_part({"puma_rows": torch.arange(4)}, 2)
