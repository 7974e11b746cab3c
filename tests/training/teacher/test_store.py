"""The teacher's states: those of the whole base, kept across kills, refused under another teacher, read as targets."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import puma.training.teacher.store
from puma.errors import ImageError, InputError
from puma.items import Item
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair
from puma.training.teacher.identity import image_identity, teacher_facts
from puma.training.teacher.store import CaptionTargets, FeatureStore, PromptTargets, caption_targets, teacher_states


def teacher_of(base, **options):
    return Retriever.from_base(base, **{"prompt": "open-quote", "device": "cpu", **options})


def colour(number, size=64):
    return Image.fromarray(np.full((size, size, 3), (number * 37) % 255, dtype=np.uint8))


def many(count):
    """Texts, images, and both together, some with an instruction."""
    asked = []
    for i in range(count):
        item = (Item(text=f"word {i}"), Item(image=colour(i)), Item(text=f"thing {i}", image=colour(i)))[i % 3]
        asked.append((item, "Find it." if i % 2 else None))
    return asked


def direct(teacher, item, instruction):
    with torch.no_grad():
        return forward_states(teacher.model, teacher.inputs.features([item], instruction))[0].numpy()


def test_states_are_the_whole_bases_with_images_and_without(base, tmp_path):
    teacher, asked = teacher_of(base), many(9)
    store = FeatureStore(tmp_path / "store", teacher)
    store.compute(teacher, asked + asked[:3], batch_size=2, shard_size=4)
    assert len(store) == 9
    states = store.states_for([item for item, _ in asked], [ask for _, ask in asked])
    assert states.dtype == np.float16
    for (item, ask), state in zip(asked, states, strict=True):
        np.testing.assert_allclose(state, direct(teacher, item, ask), rtol=2e-3, atol=2e-3)
        assert np.array_equal(store(item, ask), state)
    assert store(asked[1][0], None) is None, "another instruction, another state"
    with pytest.raises(InputError, match="1 of 1 items are not in the store"):
        store.states_for([Item(text="never")])
    assert not any(weight.grad is not None for weight in teacher.model.parameters())


def test_a_second_opening_reads_and_computes_nothing(base, tmp_path, monkeypatch):
    teacher, asked = teacher_of(base), many(5)
    FeatureStore(tmp_path, teacher).compute(teacher, asked[:3])
    FeatureStore(tmp_path, teacher).compute(teacher, asked)
    assert len(list(tmp_path.glob("shard-*"))) == 2, "the new two only"
    again = FeatureStore(tmp_path, teacher)
    monkeypatch.setattr("puma.training.teacher.store._states", lambda *_: pytest.fail("computed again"))
    again.compute(teacher, asked)
    assert len(again) == 5


def test_a_image_is_known_by_its_content(base, tmp_path):
    teacher = teacher_of(base)
    colour(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    colour(2).save(tmp_path / "c.png")
    store = FeatureStore(tmp_path / "store", teacher)
    a, b, c = (store.key(Item(image=tmp_path / name)) for name in ("a.png", "b.png", "c.png"))
    assert a == b == store.key(Item(image=(tmp_path / "a.png").read_bytes()))
    assert len({a, c, store.key(Item(image=tmp_path / "a.png", text="x")), store.key(Item(text="x"))}) == 4
    time.sleep(0.01)
    colour(2).save(tmp_path / "a.png")
    assert store.key(Item(image=tmp_path / "a.png")) == c, "the file changed under its name"
    assert image_identity(colour(1)) == image_identity(np.asarray(colour(1)))
    assert image_identity(colour(1)) != image_identity(colour(1, size=32))
    with pytest.raises(ImageError, match=r"no\.png"):
        store.key(Item(image=tmp_path / "no.png"))
    with pytest.raises(ImageError, match=r"no\.png"):
        image_identity(tmp_path / "no.png")


def other_weights(base):
    teacher = teacher_of(base)
    with torch.no_grad():
        teacher.model.get_decoder().layers[-1].mlp.up_proj.weight[0, 0] += 1
    return teacher


def other_row(base):
    teacher = teacher_of(base)
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight[teacher.inputs.ret_id, 5] += 1
    return teacher


def other_pixels(base):
    teacher = teacher_of(base)
    teacher.processor.image_processor.size = {"height": 32, "width": 32}
    return teacher


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (other_weights, {"weights"}),
        (lambda base: teacher_of(base, layers=3), {"weights"}),
        (other_row, {"[RET] row"}),
        (lambda base: teacher_of(base, prompt="short"), {"prompt"}),
        (other_pixels, {"pixel limits and image backend"}),
        (lambda base: teacher_of(base, dtype=torch.bfloat16), {"weights", "[RET] row", "number type"}),
    ],
    ids=["weights", "layers", "ret", "prompt", "pixels", "type"],
)
def test_another_teacher_is_refused_and_told_what_differs(base, tmp_path, other, differs):
    teacher = teacher_of(base)
    store = FeatureStore(tmp_path, teacher)
    store.compute(teacher, many(2))
    changed = other(base)
    facts, theirs = teacher_facts(teacher), teacher_facts(changed)
    assert {name for name in facts if facts[name] != theirs[name]} == differs
    for attempt in (lambda: FeatureStore(tmp_path, changed), lambda: store.compute(changed, many(3))):
        with pytest.raises(InputError, match="made with other") as caught:
            attempt()
        assert all(f"{name} (there" in str(caught.value) for name in differs)
        assert not any(f"{name} (there" in str(caught.value) for name in set(facts) - differs)
    with pytest.raises(InputError, match=r"number type \(there float32, here bfloat16\)"):
        FeatureStore(tmp_path, teacher, autocast=torch.bfloat16)


def test_a_used_tokenizer_is_the_same_teacher(base):
    """Its padding and truncation, which the last batch set, are no fact."""
    teacher = teacher_of(base)
    before = teacher_facts(teacher)
    teacher.processor.tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert teacher_facts(teacher) == before == teacher_facts(teacher_of(base))
    teacher.processor.tokenizer.add_tokens(["zebra"])
    assert teacher_facts(teacher)["tokenizer"] != before["tokenizer"]


CHILD = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from training.teacher.test_store import many, teacher_of
from puma.training.teacher.store import FeatureStore
teacher = teacher_of(Path({base!r}))
FeatureStore({out!r}, teacher).compute(teacher, many(900), batch_size=2, shard_size=6)
"""


def test_kill_minus_nine_keeps_every_shard_and_the_next_run_goes_on(base, tmp_path, monkeypatch):
    out = tmp_path / "store"
    code = CHILD.format(tests=str(Path(__file__).parents[2]), base=str(base), out=str(out))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("shard-*"))) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert child.poll() is None, child.stderr.read().decode()[-2000:]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    teacher = teacher_of(base)
    store = FeatureStore(out, teacher)
    kept = len(store)
    assert 18 <= kept < 900
    assert kept % 6 == 0, "whole shards only"
    asked = many(kept + 12)
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    computed = []
    real = puma.training.teacher.store._states
    monkeypatch.setattr(
        "puma.training.teacher.store._states", lambda t, rows, *more: computed.extend(rows) or real(t, rows, *more)
    )
    store.compute(teacher, asked, batch_size=2, shard_size=6)
    assert [item.text for item, _ in computed] == [item.text for item, _ in asked[kept:]]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    whole = FeatureStore(tmp_path / "whole", teacher)
    whole.compute(teacher, asked, batch_size=2, shard_size=6)
    items, instructions = zip(*asked, strict=True)
    assert np.array_equal(store.states_for(items, instructions), whole.states_for(items, instructions))


def test_states_of_texts_by_prompt_each_teacher_in_a_folder_of_its_own(base, tmp_path):
    teacher = teacher_of(base)
    asked = [(Item(text=f"word {i}"), "Find it." if i % 2 else None) for i in range(7)]
    states = teacher_states(teacher, asked + asked[:2], store=tmp_path, shard_size=3, batch_size=2)
    assert len(states) == 7
    written = teacher.inputs.written([asked[3][0]], asked[3][1])[0]
    np.testing.assert_allclose(states[written], direct(teacher, *asked[3]), rtol=2e-3, atol=2e-3)
    shards = sorted(tmp_path.rglob("shard-*"))
    assert len(shards) == 3
    shards[-1].unlink()  # as if killed before the last shard
    again = teacher_states(teacher, asked, store=tmp_path, shard_size=3, batch_size=2)
    memory = teacher_states(teacher, asked, batch_size=2)
    assert again.keys() == memory.keys() == states.keys()
    assert all(np.array_equal(again[text], states[text]) for text in states)
    assert all(np.allclose(memory[text], states[text], atol=2e-3) for text in states)
    teacher_states(teacher_of(base, layers=3), asked[:1], store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match="text items"):
        teacher_states(teacher, [(Item(image=colour(1)), None)])


def test_prompt_targets_are_of_texts_that_were_asked(base):
    teacher = teacher_of(base)
    targets = PromptTargets(teacher, teacher_states(teacher, [(Item(text="a fox"), "Find it.")]))
    np.testing.assert_allclose(
        targets(Item(text="a fox"), "Find it."), direct(teacher, Item(text="a fox"), "Find it."), atol=2e-3, rtol=2e-3
    )
    assert targets(Item(text="a fox"), None) is None
    assert targets(Item(text="a fox", image=colour(1)), "Find it.") is None


def test_a_image_is_taught_its_captions_state(base, tmp_path):
    teacher = teacher_of(base)
    targets = caption_targets(
        teacher, ["red fox", "blue heart"], {"a.png": "red fox"}, centre=True, store=tmp_path / "t"
    )
    fox, heart = targets(Item(text="red fox"), "Find it."), targets(Item(text="blue heart"), None)
    np.testing.assert_allclose(fox + heart, 0, atol=1e-4)  # two centred states are opposite
    assert np.array_equal(targets(Item(image=Path("a.png")), None), fox)
    assert targets(Item(image="a.png", text="but blue"), None) is None
    assert targets(Item(image="b.png"), None) is None
    assert targets(Item(text="unknown"), None) is None
    raw = CaptionTargets({"x": np.ones(3, np.float16)})
    assert np.array_equal(raw(Item(text="x"), None), np.ones(3))


def test_a_store_is_what_training_takes_as_teacher(base, tmp_path):
    """Items with images among them; the student comes nearer to the targets."""
    pairs = [
        Pair(Item(text=f"thing {i}"), Item(image=colour(i)), "Find it.", 0, f"q{i}", f"p{i}", frozenset([f"p{i}"]))
        for i in range(8)
    ]
    teacher = teacher_of(base)
    store = FeatureStore(tmp_path / "store", teacher)
    store.compute(teacher, [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs])
    config = TrainConfig(
        stage="distil",
        steps=30,
        save_steps=30,
        batch_size=8,
        learning_rate=1e-3,
        lora_rank=0,
        precision="fp32",
        contrastive_weight=0.0,
        distillation_weight=1.0,
    )
    result = train(teacher_of(base, layers=2), pairs, config, tmp_path / "run", teacher=store, show_progress=False)
    assert result.log[-1]["distillation"] < 0.7 * result.log[0]["distillation"]
