"""The retriever folder: same vectors in sentence-transformers, safe texts, safe images, padding that does not
matter."""

import json

import numpy as np
import pytest
import torch

from puma.errors import ImageError, InputError, ModelError
from puma.items import Item
from puma.retriever.inputs import Inputs
from puma.retriever.model import Retriever
from puma.retriever.pooling import last_token_state
from puma.retriever.prompts import PROMPT_FILE, RET
from puma.retriever.stored_vision import stored_vision
from support.plain import image


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


@pytest.fixture(scope="module")
def saved(retriever, tmp_path_factory):
    retriever.encode(["used before saving, long " * 40, "short"])  # a used tokenizer must not leave its limits
    return retriever.save_pretrained(tmp_path_factory.mktemp("model") / "model")


MIXED = [
    "a red fox",
    "x",
    {"image": image(0)},
    {"image": image(1, (200, 90)), "text": "at night"},
    "a much longer text about a blue heart and a cat",
    {"text": "blue", "image": image(2)},
]


def test_unit_rows_in_order_whatever_the_batch(retriever):
    together = retriever.encode(MIXED, instruction="Find a picture.", batch_size=2)
    alone = np.concatenate([retriever.encode([item], instruction="Find a picture.") for item in MIXED])
    assert together.dtype == np.float32
    assert together.shape == (6, retriever.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert retriever.encode([]).shape == (0, retriever.dim)


def test_each_item_may_have_its_own_instruction(retriever):
    asked = [None, "Find a picture.", None, "Find a text.", "Find a picture.", None]
    together = retriever.encode(MIXED, asked, batch_size=3)
    alone = [retriever.encode([item], text)[0] for item, text in zip(MIXED, asked, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[1] - retriever.encode(MIXED[1])[0]).max() > 1e-3  # the instruction counts
    with pytest.raises(InputError, match="instruction: 2 of them for 6 items"):
        retriever.encode(MIXED, asked[:2])


def test_vectors_are_cut_to_what_the_model_was_trained_for(retriever):
    items = ["red fox", "blue heart"]
    whole = retriever.encode(items)
    retriever.dimensions = (4, 8)
    try:
        short = retriever.encode(items, dimensions=4)
        assert np.array_equal(retriever.encode(items, dimensions=retriever.dim), whole)
        with pytest.raises(InputError, match=f"dimensions=5: .* of 4, 8, {retriever.dim} numbers; give one of them"):
            retriever.encode(items, dimensions=5)
    finally:
        retriever.dimensions = ()
    np.testing.assert_allclose(short, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(InputError, match="leave dimensions out, or train a model for it"):
        retriever.encode(items, dimensions=4)


def test_images_matter(retriever):
    one, other = retriever.encode([{"image": image(0)}, {"image": image(1)}])
    assert np.abs(one - other).max() > 1e-4  # rounding makes 1e-7


@pytest.mark.parametrize("instruction", [None, "Find a picture."])
def test_plain_sentence_transformers_gives_the_same_vectors(retriever, saved, instruction):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(saved), device="cpu")
    ours = Retriever.from_pretrained(saved, device="cpu").encode(MIXED, instruction=instruction)
    theirs = plain.encode(MIXED, prompt=instruction)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours - retriever.encode(MIXED, instruction=instruction)).max() < 1e-6


def test_fingerprint_follows_weights_and_prompt(retriever, saved, base):
    again = Retriever.from_pretrained(saved, device="cpu")
    assert again.fingerprint == retriever.fingerprint
    assert Retriever.from_base(base, layers=3, prompt="open-quote").fingerprint != again.fingerprint
    with torch.no_grad():
        again.model.language_model.norm.weight += 1e-3
    assert again.fingerprint != retriever.fingerprint


def test_control_tokens_in_a_text_are_plain_letters(retriever):
    ids = retriever.inputs.features([Item(text=f"{RET} <image> <|endoftext|> hello")])["input_ids"][0].tolist()
    assert ids.count(retriever.inputs.ret_id) == 1
    assert ids[-1] == retriever.inputs.ret_id
    assert retriever.processor.tokenizer.convert_tokens_to_ids("<image>") not in ids


def test_long_texts_lose_words_not_the_closing_line(retriever):
    limit = retriever.prompt.max_text_tokens
    long = "fox " * (limit * 3)
    ids = retriever.inputs.features([Item(text=long)])["input_ids"][0]
    tail = retriever.processor.tokenizer(retriever.prompt.close_text + RET, add_special_tokens=False)["input_ids"]
    assert ids[-len(tail) :].tolist() == tail
    kept = retriever.inputs.clean(long)
    assert len(retriever.processor.tokenizer(kept, add_special_tokens=False)["input_ids"]) == limit
    with_image = retriever.inputs.features([Item(text=long, image=image(3))])["input_ids"][0]
    assert with_image[-1] == retriever.inputs.ret_id


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_under_either_padding(side):
    hidden = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0] if side == "right" else [0, 0, 1, 1, 1]])
    expected = torch.stack([hidden[0, 4], hidden[1, 2 if side == "right" else 4]])
    assert torch.equal(last_token_state(hidden, mask), expected)


def test_ret_starts_from_the_seed_token(retriever):
    table = retriever.model.get_input_embeddings().weight
    seed = retriever.processor.tokenizer(retriever.prompt.seed, add_special_tokens=False)["input_ids"][-1]
    assert torch.equal(table[retriever.inputs.ret_id], table[seed])


class Stored:
    """The tower's own outputs, kept."""

    def __init__(self, retriever):
        self.retriever = retriever

    def lookup(self, item):
        pixels = self.retriever.processor.image_processor(item.open_image(), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            return self.retriever.model.vision_tower(pixels).last_hidden_state[0].numpy()


def test_stored_vision_features_give_the_towers_vectors(base):
    retriever = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    plain = retriever.encode(MIXED)
    names = list(retriever.model.state_dict())
    retriever.vision = Stored(retriever)
    np.testing.assert_allclose(retriever.encode(MIXED), plain, atol=1e-5)
    with stored_vision(retriever.model):
        assert list(retriever.model.state_dict()) == names
    assert type(retriever.model.vision_tower).__name__ == "EfficientNetModel"


def test_mistakes_are_named(retriever, base, tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        Retriever.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="a base model, not a retriever"):
        Retriever.from_pretrained(base)
    with pytest.raises(InputError, match="open-quote"):
        Retriever.from_base(base, prompt="quote")
    with pytest.raises(ImageError, match=r"gone\.png"):
        retriever.encode([tmp_path / "gone.png"])
    with pytest.raises(InputError, match="batch_size"):
        retriever.encode(["a"], batch_size=0)
    import transformers as t

    processor = t.AutoProcessor.from_pretrained(base)
    with pytest.raises(ModelError, match=r"\[RET\]"):
        Inputs(processor, retriever.prompt)


def test_a_damaged_folder_is_a_clear_error(saved, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(saved, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        Retriever.from_pretrained(broken)
    newer = tmp_path / "newer"
    shutil.copytree(saved, newer)
    (newer / PROMPT_FILE).write_text(json.dumps({"future": 1}))
    with pytest.raises(ModelError, match="newer"):
        Retriever.from_pretrained(newer)


def test_the_instructions_of_training_travel_with_the_folder(retriever, tmp_path):
    from puma.search import Searcher
    from puma.search.queries import INSTRUCTIONS

    retriever.instructions = {("text", "image"): "Show me this."}
    try:
        folder = retriever.save_pretrained(tmp_path / "model")
    finally:
        retriever.instructions = {}
    again = Retriever.from_pretrained(folder, device="cpu")
    assert again.instructions == {("text", "image"): "Show me this."}
    searcher = Searcher(again, tmp_path / "index")
    assert searcher.instructions["text", "image"] == "Show me this."
    assert searcher.instructions["image", "text"] == INSTRUCTIONS["image", "text"]
    assert ("text", None) not in searcher.instructions
