"""Pruning every family: exact first-k states, save and reload, configuration cut with the weights."""

import copy
import json

import pytest
import torch

from puma.errors import InputError, ModelError, PumaError
from puma.pruning import RECORD, count_parameters, decoder_of, kept_layers, prune, prune_folder
from support import tiny


def first_layers_difference(pruned, full, inputs):
    """Largest difference between what enters the pruned model's final norm and what leaves the same layer of the full
    model.

    Zero to rounding for the first-k variant: the check for a new family. Read off by hooks, since
    ``output_hidden_states`` of Qwen3-VL records a layer's output before DeepStack's features are added to it.
    """
    depth = len(decoder_of(pruned).layers)
    whole = decoder_of(full)
    after = whole.layers[depth] if depth < len(whole.layers) else whole.norm
    ours, theirs = _input_of(pruned, decoder_of(pruned).norm, inputs), _input_of(full, after, inputs)
    return float((ours - theirs).abs().max())


def _input_of(model, module, inputs):
    seen = []

    def keep(_, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("with_image", [True, False])
def test_first_k_states_are_the_full_models(family, with_image):
    full = tiny.build(family)
    inputs = tiny.inputs(family, with_image=with_image)
    for layers in (1, 2, tiny.LAYERS):
        assert first_layers_difference(prune(copy.deepcopy(full), layers), full, inputs) == 0.0


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("keep_last", [False, True])
def test_save_and_reload_is_bit_identical(family, keep_last, tmp_path):
    pruned = prune(tiny.build(family), 3, keep_last=keep_last)
    inputs = tiny.inputs(family)
    pruned.save_pretrained(tmp_path)
    again = type(pruned).from_pretrained(tmp_path).eval()
    assert len(decoder_of(again).layers) == 3
    saved, loaded = pruned.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    # The same weights at other addresses: on some processors the matrix products round by how memory is aligned.
    torch.testing.assert_close(logits(again, inputs), logits(pruned, inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_keep_last_holds_the_last_layers_weights_under_a_new_number(family):
    full = tiny.build(family)
    last = next(iter(decoder_of(full).layers[-1].parameters())).clone()
    layers = decoder_of(prune(full, 2, keep_last=True)).layers
    assert torch.equal(next(iter(layers[-1].parameters())), last)
    numbers = [m.layer_idx for layer in layers for m in layer.modules() if hasattr(m, "layer_idx")]
    assert sorted(set(numbers)) == [0, 1]


def test_a_cache_works_after_pruning():
    """Layers that kept their old numbers would write beyond the cache."""
    model = prune(tiny.build("fast_vlm"), 2, keep_last=True)
    inputs = tiny.inputs("fast_vlm", with_image=False)
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 2


def test_deepstack_is_cut_to_the_kept_depth():
    model = prune(tiny.build("qwen3_vl"), 2)
    assert len(model.model.visual.deepstack_merger_list) == 2
    assert model.config.vision_config.deepstack_visual_indexes == [0, 1]


def test_parameters_are_counted_by_rule():
    full = tiny.build("fast_vlm")
    counts = count_parameters(full)
    embedding = full.get_input_embeddings().weight.numel()
    assert counts["total"] == sum(p.numel() for p in full.parameters())
    assert counts["total"] - counts["without_embeddings"] == embedding  # tied: the table counts once
    assert count_parameters(prune(full, 2))["decoder_layers"] * 2 == counts["decoder_layers"]


@pytest.mark.parametrize("layers", [0, -1, 5, 2.0, True, "2"])
def test_layers_out_of_range_name_the_value(layers):
    with pytest.raises(InputError, match="from 1 to 4"):
        kept_layers(4, layers)


def test_what_has_no_decoder_is_refused():
    import transformers as t

    encoder = t.BertModel(
        t.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    with pytest.raises(ModelError, match="cannot be pruned"):
        prune(encoder, 1)


def test_folder_to_folder(base, tmp_path):
    out = prune_folder(base, tmp_path / "small", 2, keep_last=True)
    record = json.loads((out / RECORD).read_text())
    assert record["kept_layers"] == [0, 3]
    import transformers as t

    model = t.AutoModelForImageTextToText.from_pretrained(out)
    assert len(decoder_of(model).layers) == 2
    assert t.AutoProcessor.from_pretrained(out).image_token == "<image>"


def test_folder_mistakes_leave_nothing_behind(base, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("mine")
    for path, out, layers in (
        (tmp_path / "nowhere", tmp_path / "a", 2),
        (base, tmp_path / "b", 9),
        (base, tmp_path / "full", 2),
    ):
        with pytest.raises(PumaError):
            prune_folder(path, out, layers)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
    assert (tmp_path / "full" / "keep.txt").read_text() == "mine"
