"""One backbone as teacher and student: exact against two separate models in every family, forward and gradient."""

import copy
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from puma.errors import InputError, ModelError
from puma.pruning import decoder_of, prune
from puma.retriever.pooling import last_token_state
from puma.training.teacher.dual_depth import DualDepth
from support import tiny

LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
RET = 7
CLOSE = {"atol": 1e-6, "rtol": 0}


def built(family):
    """A tiny model whose images say something: Gemma3's projector starts at zero."""
    model = tiny.build(family)
    if family == "gemma3":
        nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model


def batch(family, *, with_image=True, rows=2):
    """Rows of one length, the second shorter (right-padded), each ending in [RET]."""
    parts = [tiny.inputs(family, with_image=with_image, seed=seed) for seed in range(rows)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole["input_ids"][:, -1] = RET
    if rows > 1:
        whole["input_ids"][1, -2:] = torch.tensor([RET, 0])
        whole["attention_mask"][1, -1] = 0
    return whole


def with_adapters(model, *, seed=1, dropout=0.0, tokens=None, alpha=32):
    """LoRA on every decoder layer that is there, far from zero, the same for one seed."""
    decoder = decoder_of(model)
    path = "".join(f"{name}." for name, module in model.named_modules() if module is decoder and name)
    config = LoraConfig(
        r=4,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=rf"{path}layers\.\d+\..*({LINEAR})",
        trainable_token_indices=tokens,
    )
    peft = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return peft


def dual_of(model, layers=2, **options):
    """A DualDepth of a model of which nothing is trained yet."""
    return DualDepth(model.requires_grad_(False), layers, **options)


def states_of(model, features, **options):
    """The slow, obvious way: the model by itself, its state at [RET]."""
    hidden = model.base_model(**features, use_cache=False, **options).last_hidden_state
    return last_token_state(hidden, features["attention_mask"]).float()


def gradients(model):
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("keep_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("with_image", [True, False], ids=["picture", "text"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_teacher_is_the_base_and_student_the_pruned_model(family, with_image, keep_last):
    features = batch(family, with_image=with_image, rows=2)
    base = built(family)
    with torch.no_grad():
        expected = states_of(base, features)
    separate = prune(built(family), 2, keep_last=keep_last)
    with_adapters(separate)
    shared = built(family)
    dual = dual_of(shared, 2, keep_last=keep_last)
    with_adapters(shared)

    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    own = states_of(separate, features)
    functional.mse_loss(own, target).backward()
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    torch.testing.assert_close(student, own, **CLOSE)
    assert (student - teacher).abs().max() > 1e-2, "two depths, two answers"
    assert not teacher.requires_grad
    functional.mse_loss(student, target).backward()
    wanted, got = gradients(separate), gradients(shared)
    assert wanted
    assert wanted.keys() == got.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], **CLOSE)
    torch.testing.assert_close(dual.teacher_states(features), expected, **CLOSE)


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl"])
def test_a_cut_inside_a_pattern_of_layers(family):
    """Gemma3's sliding and full layers, and DeepStack's three sets of features on a depth of one."""
    features, model = batch(family), built(family)
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
        config = copy.deepcopy(model.config)
        config.text_config.layer_types, config.text_config.sliding_window = kinds, 4
        torch.manual_seed(0)
        model = type(model)(config).eval()
    whole, separate = copy.deepcopy(model), prune(copy.deepcopy(model), 1, keep_last=True)
    dual = dual_of(model, 1, keep_last=True)
    for _ in range(2):  # the second time too: nothing of the teacher's stays behind
        student, teacher = dual.states(features)
        with torch.no_grad():
            torch.testing.assert_close(teacher, states_of(whole, features), **CLOSE)
            torch.testing.assert_close(student, states_of(separate, features), **CLOSE)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_is_left_at_the_end_is_the_pruned_model(family, tmp_path):
    dual, separate = dual_of(built(family), 2), prune(built(family), 2)
    dual.states(batch(family))
    model = dual.cut()
    ours, theirs = model.state_dict(), separate.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(states_of(again, batch(family)), states_of(separate, batch(family)), **CLOSE)
    with pytest.raises(ModelError, match="was cut"):
        dual.states(batch(family))


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_a_trained_ret_row_is_the_students_alone(family):
    features, base = batch(family), built(family)
    with torch.no_grad():
        expected = states_of(base, features)
    dual = dual_of(built(family), 2, ret_id=RET)
    table = dual.model.get_input_embeddings()
    table.weight.requires_grad_(True)
    with torch.no_grad():
        table.weight[RET] += 1.0
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(student, states_of(dual.model, features), **CLOSE)
    student.sum().backward()
    assert table.weight.grad[RET].abs().max() > 0


def test_a_ret_row_trained_by_peft_is_the_students_alone():
    features, base = batch("llava"), built("llava")
    with torch.no_grad():
        expected = states_of(base, features)
    dual = dual_of(built("llava"), 2, ret_id=RET)
    name = next(n for n, m in dual.model.named_modules() if m is dual.model.get_input_embeddings())
    peft = with_adapters(dual.model, tokens={name: [RET]})
    for key, weight in peft.named_parameters():
        if "trainable_tokens_delta" in key:
            weight.data += 1.0
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    student.sum().backward()
    assert any("trainable_tokens_delta" in key and grad.abs().max() > 0 for key, grad in gradients(peft).items())


@pytest.mark.parametrize("family", ["llava", "gemma3", "fast_vlm"])
def test_a_trained_projector_is_the_students_alone(family):
    features, base = batch(family), built(family)
    with torch.no_grad():
        expected = states_of(base, features)
    dual = dual_of(built(family), 2)
    projector = dual.body.multi_modal_projector.requires_grad_(True)
    with torch.no_grad():
        for weight in projector.parameters():
            weight += 0.05
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(student, states_of(dual.model, features), **CLOSE)
        assert (student - states_of(prune(built(family), 2), features)).abs().max() > 1e-3
    student.sum().backward()
    assert all(weight.grad is not None for weight in projector.parameters())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_vision_tower_and_kept_layers_run_as_often_as_they_must(family):
    model, counts = built(family), {"tower": 0, "first": 0, "deep": 0}
    layers = decoder_of(model).layers

    def counted(name):
        def count(*_):
            counts[name] += 1

        return count

    model.get_encoder("image").register_forward_hook(counted("tower"))
    layers[0].register_forward_hook(counted("first"))
    layers[3].register_forward_hook(counted("deep"))
    dual = dual_of(model, 2)
    dual.states(batch(family))
    assert counts == {"tower": 1, "first": 2, "deep": 1}


def test_dropout_and_train_mode_are_the_students_alone():
    """The teacher draws no random number: the student's dropout falls as it would without one."""
    features, base = batch("qwen2_vl"), built("qwen2_vl")
    with torch.no_grad():
        expected = states_of(base, features)
    separate, shared = prune(built("qwen2_vl"), 2), built("qwen2_vl")
    dual = dual_of(shared, 2)
    for model in (separate, shared):
        with_adapters(model, dropout=0.5)
        model.train()
    torch.manual_seed(3)
    student, teacher = dual.states(features)
    torch.manual_seed(3)
    own = states_of(separate, features)
    torch.testing.assert_close(student, own, **CLOSE)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    assert all(module.training for module in decoder_of(shared).modules())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_autocast_and_checkpointing_change_no_gradient(checkpointing, precision):
    features = batch("llava")
    separate, shared = prune(built("llava"), 2), built("llava")
    dual = dual_of(shared, 2)
    for model in (separate, shared):
        with_adapters(model)
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
    room = torch.autocast("cpu", dtype=precision) if precision else nullcontext()
    with room:
        student, _ = dual.states(features)
        own = states_of(separate, features)
        (student**2).mean().backward()
        (own**2).mean().backward()
    wanted, got = gradients(separate), gradients(shared)
    assert wanted
    assert wanted.keys() == got.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], **CLOSE)


def test_deep_layers_keep_their_type_under_autocast_and_take_the_embeddings_without():
    features = batch("llava")
    base = built("llava").bfloat16()
    with torch.no_grad():
        expected = states_of(copy.deepcopy(base).float(), features)
    dual = dual_of(base, 2)
    dual.model.float()  # as training does
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, rough = dual.states({**features})
    deep = dual._deep[0].self_attn.q_proj.weight
    assert deep.dtype == torch.bfloat16
    torch.testing.assert_close(rough, expected, atol=0.1, rtol=0)
    _, exact = dual.states(features)
    assert dual._deep[0].self_attn.q_proj.weight.dtype == torch.float32
    torch.testing.assert_close(exact, expected, **CLOSE)


def test_the_teacher_may_compute_in_another_type():
    features = batch("llava")
    dual, rough = (dual_of(built("llava"), 2, autocast=kind) for kind in (None, torch.bfloat16))
    for each in (dual, rough):
        with_adapters(each.model)
    (student, exact), (same, near) = dual.states(features), rough.states(features)
    assert torch.equal(student, same)
    assert 0 < (exact - near).abs().max() < 0.1


def test_inside_a_pipeline_the_student_is_reached_through_it():
    class Pipeline(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, features):
            return {"token_embeddings": self.model.base_model(**features).last_hidden_state}  # use_cache on

    features = {**batch("smolvlm"), "puma_rows": torch.arange(2), "modality": "message"}
    dual = dual_of(built("smolvlm"), 2)
    pipeline = Pipeline(dual.model)
    clean = {key: value for key, value in features.items() if key not in ("puma_rows", "modality")}
    student, teacher = dual.states(clean, run=lambda chunk: pipeline(chunk)["token_embeddings"])
    direct = dual.states(features)
    assert torch.equal(student, direct[0])
    assert torch.equal(teacher, direct[1])

    def twice(chunk):
        pipeline(chunk)
        return pipeline(chunk)["token_embeddings"]

    with pytest.raises(ModelError, match="2 times"):
        dual.states(clean, run=twice)
    with pytest.raises(ModelError, match="0 times"):
        dual.states(clean, run=lambda chunk: torch.zeros(2, 3, 4))


def test_adapters_put_on_before_the_cut_are_off_in_the_teacher():
    features, base = batch("idefics3"), built("idefics3")
    with torch.no_grad():
        expected = states_of(base, features)
    peft = with_adapters(built("idefics3"))
    dual = DualDepth(peft, 2)
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    student.sum().backward()
    assert all(weight.grad is not None for weight in peft.parameters() if weight.requires_grad)
    assert not [name for name, weight in peft.named_parameters() if ".layers.3." in name and "text" in name]


def test_adapters_put_on_between_steps_are_off_in_the_teacher():
    features, base = batch("llava"), built("llava")
    with torch.no_grad():
        expected = states_of(base, features)
    dual = dual_of(built("llava"))
    bare, _ = dual.states(features)
    with_adapters(dual.model)
    student, teacher = dual.states(features)
    torch.testing.assert_close(teacher, expected, **CLOSE)
    assert (student - bare).abs().max() > 1e-3


def test_left_padding_is_read_at_the_same_token():
    features = tiny.inputs("llava", with_image=False)
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 3, dtype=torch.long), features["input_ids"]], 1),
        "attention_mask": torch.cat([torch.zeros(1, 3, dtype=torch.long), features["attention_mask"]], 1),
    }
    padded["position_ids"] = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    dual = dual_of(built("llava"), 2)
    for ours, theirs in zip(dual.states(padded), dual.states(features), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_weights_that_would_move_the_teacher_are_refused():
    def prepared(train):
        dual = dual_of(built("llava"))
        train(dual.model)
        return dual

    full = prepared(lambda model: decoder_of(model).layers.requires_grad_(True))
    with pytest.raises(InputError, match=r"layers\.0.*more: those weights are the teacher's too.*lora_rank > 0"):
        full.states(batch("llava"))
    with pytest.raises(InputError, match=r"norm\.weight"):
        prepared(lambda model: decoder_of(model).norm.requires_grad_(True)).check()
    with pytest.raises(InputError, match="vision_tower"):
        prepared(lambda model: model.get_encoder("image").requires_grad_(True)).check()
    with pytest.raises(InputError, match="ret_id=None"):
        prepared(lambda model: model.get_input_embeddings().requires_grad_(True)).check()
    with pytest.raises(InputError, match="layers=9"):
        dual_of(built("llava"), 9)


def test_an_error_in_the_forward_leaves_the_student_as_it_was():
    dual = dual_of(built("gemma3"), 2)
    dual.model.train()
    features = batch("gemma3")

    def fails(*_):
        raise RuntimeError("out of memory")

    hook = dual._deep[0].register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        dual.states(features)
    hook.remove()
    decoder = decoder_of(dual.model)
    assert len(decoder.layers) == decoder.config.num_hidden_layers == 2
    assert decoder.training
    assert "forward" not in decoder.__dict__
    dual.states(features)
