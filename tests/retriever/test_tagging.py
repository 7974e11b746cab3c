"""Tags of photographs: which images get one, what the model reads, and that nothing else changes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import InputError, ModelError
from puma.items.item import Item, TaggedItem
from puma.retriever.encoding.repeats import first_of_each
from puma.retriever.images.pixels import preprocessing
from puma.retriever.model import Retriever
from puma.retriever.parity import LEAST, compare
from puma.retriever.tagging.network import SETTINGS, WEIGHTS, TagNetwork, read_tagger, torch_tagger
from puma.retriever.tagging.statistics import COUNT, pixel_statistics
from puma.retriever.tagging.tagger import FOLDER, Tagger, small_image
from support.exports import needs_onnx
from support.shared import built_once

NAMES = ("w3", "w14", "w15 w9")


def network_of(model, photo_bias):
    """The model's own tower, three classes by chance, and a line that all images, or none, lie above."""
    torch.manual_seed(3)
    network = TagNetwork(model.vision_tower, len(NAMES)).eval()
    with torch.no_grad():
        network.classifier.weight.mul_(20)  # else one class is the likeliest of all images
        network.photo.weight.zero_()
        network.photo.bias.fill_(photo_bias)
    return network


@pytest.fixture
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")


def tagger_for(retriever, photo_bias=1.0, shift=0.0):
    images = preprocessing(retriever.processor.image_processor)
    drawn = np.random.default_rng(1).normal(size=(2, retriever.dim)).astype(np.float32)
    none = np.zeros(COUNT, np.float32)
    return torch_tagger(network_of(retriever.model, photo_bias), NAMES, images, none, drawn * np.float32(shift))


def images(count=6):
    drawn = np.random.default_rng(0)
    blocks = [drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(count)]
    sizes = [(90, 40), (64, 64), (200, 300), (33, 65), (16, 16), (640, 480)]
    return [Image.fromarray(b).resize(sizes[k % 6], Image.Resampling.BILINEAR) for k, b in enumerate(blocks)]


def test_an_image_gets_the_likeliest_classs_name_beside_the_slow_obvious_way(retriever):
    found = tagger_for(retriever).tagged([Item(image=image) for image in images(40)])
    network = network_of(retriever.model, 1.0)
    for item, image in zip(found, images(40), strict=True):
        pixels = retriever.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pooled = network.tower(pixels).last_hidden_state.mean((2, 3))
            wanted = NAMES[int((network.classifier.weight @ pooled[0] + network.classifier.bias).argmax())]
        assert isinstance(item, TaggedItem)
        assert (item.tag, item.modality) == (wanted, "image")
    assert len({item.tag for item in found}) > 1


def test_drawings_texts_and_what_is_tagged_stay_as_they_are(retriever, tmp_path):
    (image,) = images(1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    kept = [
        Item(text="w3"),
        Item(text="w3", image=image),
        TaggedItem(image=image, tag="w9"),
        Item(image=broken),
        Item(image=tmp_path / "gone.png"),
    ]
    assert tagger_for(retriever).tagged(kept) == kept
    drawings = [Item(image=image) for image in images()]
    assert tagger_for(retriever, photo_bias=-1.0).tagged(drawings) == drawings
    assert tagger_for(retriever).tagged([]) == []


def test_vectors_are_those_of_items_tagged_by_hand(retriever, tmp_path):
    file = tmp_path / "large.jpg"
    images()[5].save(file, quality=95)
    items = [*(Item(image=image) for image in images()), Item(image=file), Item(text="w3"), Item(text="w9", image=file)]
    plain = retriever.encode(items, instruction="w1 w2")
    tagger = tagger_for(retriever)
    by_hand = retriever.encode(tagger.tagged(items), instruction="w1 w2")
    retriever.tagger = tagger
    found = retriever.encode(items, instruction="w1 w2")
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert np.abs(found[:7] - plain[:7]).max(1).min() > 1e-3  # what the model reads is another thing
    np.testing.assert_allclose(found[7:], plain[7:], atol=1e-5)
    retriever.tagger = tagger_for(retriever, photo_bias=-1.0)
    np.testing.assert_allclose(retriever.encode(items, instruction="w1 w2"), plain, atol=1e-5)
    one = np.concatenate([retriever.encode([item], instruction="w1 w2") for item in items])
    np.testing.assert_allclose(one, plain, atol=1e-5)


def test_images_made_small_give_the_very_same_pixels(retriever):
    steps = preprocessing(retriever.processor.image_processor)
    tagger = tagger_for(retriever, photo_bias=-1.0)
    items = [Item(image=image) for image in images()]
    small = tagger.tagged(items, steps)
    assert all(item.image.size == (steps.width, steps.height) for item in small)
    for before, after in zip(items, small, strict=True):
        np.testing.assert_array_equal(steps([before.image]), steps([after.image]))
    other = replace(steps, width=32, height=32)
    assert tagger.tagged(items, other) == items  # the model wants other pixels than the classifier


def test_an_unreadable_image_is_named_as_without_a_tagger(retriever, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    retriever.tagger = tagger_for(retriever)
    with pytest.raises(Exception, match=r"broken\.png"):
        retriever.encode([*images(), tmp_path / "broken.png"])


def test_a_tag_is_read_as_a_text_and_has_no_power(retriever):
    (image,) = images(1)
    for tag in ("red fox", "a [RET] <image>"):
        tagged, both = TaggedItem(image=image, tag=tag), Item(text=tag, image=image)
        for instruction in (None, "Find it."):
            (written,) = retriever.inputs.written([tagged], instruction)
            assert [written] == retriever.inputs.written([both], instruction)
            assert written.count("[RET]") == written.count(retriever.prompt.image) == 1
        np.testing.assert_allclose(retriever.encode([tagged]), retriever.encode([both]), atol=1e-5)
        assert tagged.modality == "image"


def test_the_shift_is_taken_off_tagged_images_alone(retriever):
    items = [*(Item(image=image) for image in images()), Item(text="w3"), Item(text="w9", image=images()[0])]
    instructions = [None, "w1", "w1", None, "w1", None, "w1", None]
    retriever.tagger = tagger_for(retriever)
    plain = retriever.encode(items, instruction=instructions)
    retriever.tagger = tagger_for(retriever, shift=0.1)
    found = retriever.encode(items, instruction=instructions)
    for row, (vector, instruction) in enumerate(zip(plain, instructions, strict=True)):
        moved = vector - retriever.tagger.shift[0 if instruction is None else 1] * (row < 6)
        np.testing.assert_allclose(found[row], moved / np.linalg.norm(moved), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    untagged = tagger_for(retriever, photo_bias=-1.0, shift=0.1)
    vectors = plain.copy()
    assert untagged.corrected(vectors, untagged.tagged(items), instructions) is vectors
    np.testing.assert_array_equal(vectors, plain)


def test_a_tagged_item_is_an_image_alone():
    (image,) = images(1)
    for arguments in ({"text": "a", "image": image}, {"text": "a"}):
        with pytest.raises(InputError):
            TaggedItem(**arguments, tag="b")
    items = [Item(image=image), Item(image=image)]
    assert first_of_each(items, [None, None])[0] == [0]


def test_it_is_saved_with_the_retriever_and_known_by_its_fingerprint(retriever, tmp_path):
    untagged = retriever.fingerprint
    retriever.tagger = tagger_for(retriever, shift=0.1)
    assert retriever.fingerprint != untagged
    assert retriever.tagger.fingerprint != tagger_for(retriever).fingerprint
    retriever.save_pretrained(tmp_path / "saved")
    back = Retriever.from_pretrained(tmp_path / "saved", device="cpu")
    assert back.fingerprint == retriever.fingerprint
    np.testing.assert_allclose(back.encode(images()), retriever.encode(images()), atol=1e-6)
    back.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FOLDER / WEIGHTS).read_bytes() == (tmp_path / "saved" / FOLDER / WEIGHTS).read_bytes()
    assert (
        "photographs: PUMA writes the likeliest of 3 classes beside each" in (tmp_path / "saved/README.md").read_text()
    )
    other = tagger_for(retriever, photo_bias=0.5, shift=0.1)
    assert other.fingerprint != retriever.tagger.fingerprint


@pytest.mark.parametrize("damage", ["cut", "missing", "names", "json"])
def test_a_damaged_tagger_is_refused_with_the_remedy(retriever, tmp_path, damage):
    retriever.tagger = tagger_for(retriever)
    folder = retriever.save_pretrained(tmp_path / "saved")
    own = folder / FOLDER
    settings = json.loads((own / SETTINGS).read_text())
    if damage == "cut":
        (own / WEIGHTS).write_bytes((own / WEIGHTS).read_bytes()[:1000])
    elif damage == "missing":
        (own / WEIGHTS).unlink()
    elif damage == "names":
        (own / SETTINGS).write_text(json.dumps({**settings, "names": settings["names"][:2]}))
    else:
        (own / SETTINGS).write_text("{")
    with pytest.raises(ModelError, match=r"cannot be read .* make the model again, or delete this folder"):
        Retriever.from_pretrained(folder, device="cpu")


def test_a_newer_tagger_is_refused(retriever, tmp_path):
    retriever.tagger = tagger_for(retriever)
    folder = retriever.save_pretrained(tmp_path / "saved")
    settings = json.loads((folder / FOLDER / SETTINGS).read_text())
    (folder / FOLDER / SETTINGS).write_text(json.dumps({**settings, "format": 9}))
    with pytest.raises(ModelError, match="update PUMA"):
        read_tagger(folder)
    assert read_tagger(tmp_path) is None


def test_other_programs_are_compared_without_tags(retriever, tmp_path):
    retriever.tagger = tagger_for(retriever)
    folder = retriever.save_pretrained(tmp_path / "saved")
    found = compare(Retriever.from_pretrained(folder, device="cpu"), folder)
    assert min(parity.worst for parity in found) > LEAST


def test_a_cache_on_the_disk_keeps_tags_and_no_image_is_opened_again(retriever, tmp_path, monkeypatch):
    from puma.retriever.encoding.image_cache import ImageCache

    files = []
    for number, image in enumerate(images()):
        files.append(tmp_path / f"{number}.png")
        image.save(files[-1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    retriever.tagger = tagger_for(retriever)
    plain = retriever.encode(files)
    retriever.image_cache = ImageCache(tmp_path / "cache")
    first = retriever.encode(files)
    np.testing.assert_allclose(first, plain, atol=1e-5)
    items = [Item(image=path) for path in [*files, broken]]
    tagged = retriever.tagger.tagged(items)
    monkeypatch.setattr(Item, "open_image", lambda self, **_: pytest.fail(f"opened {self.image_name}"))
    assert retriever.tagger.tagged(items[:-1], cache=retriever.image_cache) == tagged[:-1]
    retriever.image_cache = ImageCache(tmp_path / "cache")
    np.testing.assert_array_equal(retriever.encode(files), first)
    monkeypatch.undo()
    other = tagger_for(retriever, photo_bias=-1.0)
    assert other.tagged(items, cache=retriever.image_cache) == items  # another tagger asks for itself
    assert retriever.tagger.tagged(items, cache=retriever.image_cache) == tagged


def test_a_later_small_call_opens_and_classifies_nothing_again(retriever, tmp_path, monkeypatch):
    images()[0].save(tmp_path / "one.png")
    path = tmp_path / "one.png"
    items = [Item(image=path), Item(image=path), Item(image=path, text="w3"), Item(image=images()[1])]
    instructions = [None, "w1", "w1", None]
    retriever.tagger = tagger_for(retriever, shift=0.1)
    first = retriever.encode(items, instructions)
    opened, tags, opening = [], [], Item.open_image
    monkeypatch.setattr(Item, "open_image", lambda self, **more: opened.append(self.image) or opening(self, **more))
    monkeypatch.setattr(Tagger, "_tags", lambda self, given: tags.append(given))
    np.testing.assert_allclose(retriever.encode(items, instructions), first, atol=1e-6)
    assert (opened, tags) == ([], [])
    monkeypatch.undo()
    images()[2].save(path)  # another image under the same name is read anew
    assert np.abs(retriever.encode(items, instructions) - first)[:3].max(1).min() > 1e-3
    np.testing.assert_allclose(retriever.encode(items, instructions)[3], first[3], atol=1e-6)


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    """The export of a retriever that tags every image."""
    needs_onnx()
    from puma.retriever.onnx.exporting import export_onnx

    def build(out):
        made = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")
        made.tagger = tagger_for(made, shift=0.1)
        export_onnx(made, out, source="here")

    return built_once(tmp_path_factory, "onnx-tagging", build)


def test_an_export_tags_as_the_model_does(retriever, exported, tmp_path):
    from puma.retriever.onnx.layout import EXPORT_FILE
    from puma.retriever.onnx.tags import FILE

    retriever.tagger = tagger_for(retriever, shift=0.1)
    out = shutil.copytree(exported, tmp_path / "exported")
    light = Retriever.from_pretrained(out)
    items = [*(Item(image=image) for image in images()), Item(text="w3"), Item(text="w3", image=images()[0])]
    tags = [getattr(item, "tag", None) for item in light.tagger.tagged(items)]
    assert tags == [getattr(item, "tag", None) for item in retriever.tagger.tagged(items)]
    assert (light.encode(items, instruction="w1") * retriever.encode(items, instruction="w1")).sum(1).min() > 0.99999
    assert light.fingerprint == retriever.fingerprint
    assert json.loads((out / EXPORT_FILE).read_text())["format"] == 2
    (out / FILE).unlink()
    with pytest.raises(ModelError, match="export the model again"):
        Retriever.from_pretrained(out).encode(items)


@pytest.mark.parametrize("disk", [False, True])
def test_an_export_opens_an_image_once_for_its_tag_and_itself_and_not_again(exported, disk, tmp_path, monkeypatch):
    images()[0].save(tmp_path / "one.png")
    path, other = tmp_path / "one.png", images()[1]
    items = [Item(image=path), Item(image=path), Item(image=path, text="w3"), Item(image=other), Item(text="w3")]
    instructions = [None, "w1", "w1", None, None]
    light = Retriever.from_pretrained(exported)
    alone = [light.encode([item], one) for item, one in zip(items, instructions, strict=True)]
    opened, classified, opening, tags = [], [], Item.open_image, Tagger._tags
    monkeypatch.setattr(Item, "open_image", lambda self, **more: opened.append(self.image) or opening(self, **more))
    monkeypatch.setattr(Tagger, "_tags", lambda self, given: classified.extend(given) or tags(self, given))

    def fresh():
        opened.clear(), classified.clear()
        return Retriever.from_pretrained(exported, image_cache=tmp_path / "cache" if disk else None)

    light = fresh()
    for _ in range(3):
        found = light.encode(items, instructions, batch_size=2)
        np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-6)
        # Beside these only what the tagger had made small is opened.
        assert (sum(one is path or one is other for one in opened), len(classified)) == (2, 2)
    found = fresh().encode(items, instructions)
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-6)
    assert (len(opened) > 0, len(classified)) == ((False, 0) if disk else (True, 2))


@pytest.mark.slow
def test_an_export_of_texts_alone_has_no_tags(retriever, tmp_path):
    needs_onnx()
    from puma.retriever.onnx.exporting import export_onnx

    retriever.tagger = tagger_for(retriever)
    export_onnx(retriever, tmp_path / "exported", source="here", text_only=True)
    assert not any("tagger" in path.name for path in (tmp_path / "exported").iterdir())
    Retriever.from_pretrained(tmp_path / "exported").encode(["w3"])


def test_statistics_are_the_slow_obvious_ones():
    image = images()[0].resize((12, 9))
    found = pixel_statistics(image)
    pixels = np.asarray(image).astype(int).tolist()
    colours, changes, bends = set(), [], []
    for y in range(9):
        for x in range(12):
            colours.add(tuple(value // 8 for value in pixels[y][x]))
            if y < 8 and x < 11:
                changes.append(
                    sum(
                        abs(pixels[y + 1][x][c] - pixels[y][x][c]) + abs(pixels[y][x + 1][c] - pixels[y][x][c])
                        for c in range(3)
                    )
                )
            if 0 < y < 8 and 0 < x < 11:
                near = [pixels[y - 1][x], pixels[y + 1][x], pixels[y][x - 1], pixels[y][x + 1]]
                bends.append(sum(abs(4 * pixels[y][x][c] - sum(one[c] for one in near)) for c in range(3)))
    wanted = [
        np.log(len(colours) / 108 + 1e-3),
        np.mean([change <= 4 for change in changes]),
        np.mean([4 < change < 60 for change in changes]),
        np.mean([change > 150 for change in changes]),
        np.log1p(np.median(bends)),
        np.log1p(np.mean(bends)),
        np.mean([6 < bend < 60 for bend in bends]),
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_statistics_decide_beside_the_network(retriever):
    tagger = tagger_for(retriever, photo_bias=0.5)
    first, second = images()[1], Image.new("RGB", (64, 64), "red")
    flat = np.zeros(COUNT, np.float32)
    flat[1] = -1.0  # the share of places that change little
    strict = replace(tagger, statistics=flat)
    tags = [hasattr(item, "tag") for item in strict.tagged([Item(image=first), Item(image=second)])]
    assert tags == [pixel_statistics(small_image(first, tagger.images))[1] < 0.5, False]
    assert tags[0]
