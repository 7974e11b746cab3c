"""Every family's retriever against plain sentence-transformers: [RET] last, BOS once, typed control tokens harmless,
images of any shape."""

import numpy as np
import pytest
import torch

from puma.errors import ImageError, ModelError
from puma.items import Item
from puma.retriever.images.decoding import LARGEST_RATIO, within_limits
from puma.retriever.model import Retriever
from puma.retriever.prompts import RET, PromptFormat, control_tokens, with_special_tokens
from support import families
from support.plain import image

MIXED = [
    "a red fox",
    "typed <image> and <|image_pad|> and <|im_end|> and [RET] and <start_of_image>",
    {"image": image(0)},
    {"image": image(1, (200, 90)), "text": "at night"},
    "a much longer text about a blue heart and a cat",
    {"text": "blue <image>", "image": image(2, (30, 30))},
]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_sentence_transformers_gives_the_same_vectors(family_base, family, tmp_path):
    from sentence_transformers import SentenceTransformer

    made = Retriever.from_base(family_base(family), layers=2, device="cpu")
    made.encode(["used before saving, long " * 40, "short"])
    saved = made.save_pretrained(tmp_path / "model")
    ours, theirs = Retriever.from_pretrained(saved, device="cpu"), SentenceTransformer(str(saved), device="cpu")
    for items in (MIXED, MIXED[:2], MIXED[2:3], MIXED[3:4]):
        for instruction in (None, "Find a picture that matches <image>."):
            vectors = ours.encode(items, instruction=instruction)
            assert np.abs(vectors - theirs.encode(items, prompt=instruction)).max() < 1e-5
            assert np.abs(vectors - made.encode(items, instruction=instruction)).max() < 1e-5
    vectors = ours.encode(MIXED)
    assert np.abs(vectors[2] - vectors[5]).max() > 1e-3  # images matter
    assert np.abs(vectors[0] - vectors[4]).max() > 1e-3  # texts matter
    assert "texts over 450 tokens" in (saved / "README.md").read_text()


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("layout", ["saved", "hub"])
def test_a_tokenizer_that_appends_eos_and_the_hubs_files(family, layout, tmp_path):
    from sentence_transformers import SentenceTransformer

    base = families.build(family, tmp_path / "base", add_eos=True, side="right", layout=layout)
    plain = families.build(family, tmp_path / "plain", side="left")
    made = Retriever.from_base(base, layers=1, device="cpu")
    saved = made.save_pretrained(tmp_path / "model")
    vectors = Retriever.from_pretrained(saved, device="cpu").encode(MIXED)
    assert np.abs(vectors - Retriever.from_base(plain, layers=1, device="cpu").encode(MIXED)).max() < 1e-5
    theirs = SentenceTransformer(str(saved), device="cpu").encode(MIXED)
    assert np.abs(vectors - theirs).max() < 1e-5


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_bos_stands_once_where_tokenizer_and_template_write_it(family_base, family):
    made = Retriever.from_base(family_base(family), layers=1, device="cpu")
    bos = made.processor.tokenizer.bos_token_id
    for items in ([Item("a red fox")], [Item(image=image(0))]):
        ids = made.inputs.features(items)["input_ids"]
        assert (ids == bos).sum() == 1
        assert ids[0, 0] == bos


@pytest.mark.parametrize("family", families.FAMILIES)
def test_ret_is_the_last_attended_token(family_base, family):
    made = Retriever.from_base(family_base(family), layers=1, device="cpu")
    for items in (["a red fox", "x"], MIXED):
        features = made.inputs.features([Item(i) if isinstance(i, str) else Item(**i) for i in items])
        lengths = features["attention_mask"].sum(1)
        last = features["input_ids"][torch.arange(len(items)), lengths - 1]
        assert (last == made.inputs.ret_id).all()


def test_a_token_after_ret_is_refused(family_base):
    inputs = Retriever.from_base(family_base("qwen2_vl"), layers=1, device="cpu").inputs
    eos = inputs.tokenizer.eos_token_id
    ids = torch.tensor([[5, inputs.ret_id, eos], [5, 6, inputs.ret_id]])
    inputs._check(ids, torch.tensor([[1, 1, 0], [1, 1, 1]]))  # EOS as padding is none
    with pytest.raises(ModelError, match=r"must be the last token .* '<\|im_end\|>' is"):
        inputs._check(ids, torch.tensor([[1, 1, 1], [1, 1, 1]]))
    with pytest.raises(ModelError, match=r"exactly once, got \[1, 0\]"):
        inputs._check(torch.tensor([[inputs.ret_id], [5]]), torch.ones(2, 1))


def test_the_tokenizers_own_additions_move_into_the_prompt():
    words = families.tokenizer(("<s>", "</s>", "<pad>"), "</s>", "<pad>", {}, bos="<s>", add_eos=True)
    assert words("a")["input_ids"][0] == words.bos_token_id
    assert words("a")["input_ids"][-1] == words.eos_token_id
    prompt = with_special_tokens(words, PromptFormat(before="USER: "))
    assert prompt.before == "<s>USER: "
    assert words("a")["input_ids"] == words("a", add_special_tokens=False)["input_ids"]
    assert with_special_tokens(words, prompt) == prompt


def test_control_tokens_are_named_longest_first(family_base):
    made = Retriever.from_base(family_base("smolvlm"), layers=1, device="cpu")
    tokens = control_tokens(made.processor)
    assert {"<image>", RET, "<global-img>", "<row_1_col_2>"} <= set(tokens)
    assert [len(token) for token in tokens] == sorted((len(token) for token in tokens), reverse=True)


SHAPES = [(1, 300), (300, 1), (7, 3000), (3000, 7), (1, 1), (3, 3), (2, 5), (1, 4000)]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_images_of_any_shape_are_embedded(family_base, family):
    made = Retriever.from_base(family_base(family), layers=1, device="cpu")
    vectors = made.encode([{"image": image(n, size)} for n, size in enumerate(SHAPES)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_only_extreme_images_are_stretched():
    for size in ((4, 4), (40, 60), (10, 10 * LARGEST_RATIO)):
        drawn = image(0, size)
        assert within_limits(drawn) is drawn
    for size in SHAPES:
        width, height = within_limits(image(0, size)).size
        assert min(width, height) >= 4
        assert max(width, height) / min(width, height) <= LARGEST_RATIO
        assert max(width, height) == max(*size, 4)


def test_an_image_that_the_processor_refuses_is_named(family_base, tmp_path):
    made = Retriever.from_base(family_base("qwen2_vl"), layers=1, device="cpu")
    whole = type(made.processor.image_processor).preprocess

    class Picky(type(made.processor.image_processor)):
        def preprocess(self, images, *rest, **options):
            flat = [part for entry in images for part in (entry if isinstance(entry, list) else [entry])]
            if any(part.width == 41 for part in flat):
                raise ValueError("no image of 41 pixels")
            return whole(self, images, *rest, **options)

    made.processor.image_processor.__class__ = Picky
    image(0, (50, 41)).save(tmp_path / "odd.png")
    items = [{"image": image(1)}, {"image": tmp_path / "odd.png"}]
    with pytest.raises(
        ImageError, match=r"odd\.png: the model's image processor refuses it \(41 x 50 pixels: no image"
    ):
        made.encode(items)
    assert made.encode(items[:1]).shape == (1, 32)
