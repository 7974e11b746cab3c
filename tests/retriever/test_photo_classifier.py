"""The photo classifier: which images it recognises, what that adds to vectors, and that nothing else changes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import ModelError
from puma.items.item import Item
from puma.retriever.images.pixels import preprocessing
from puma.retriever.model import Retriever
from puma.retriever.parity import LEAST, compare
from puma.retriever.photographs import classifier as photographs
from puma.retriever.photographs.classifier import (
    AMONG_IMAGES,
    AMONG_TEXTS,
    FOLDER,
    STRENGTHS,
    PhotoClassifier,
    Shown,
)
from puma.retriever.photographs.network import (
    BEFORE,
    SETTINGS,
    WEIGHTS,
    PhotoNetwork,
    read_classifier,
    torch_classifier,
)
from puma.retriever.photographs.statistics import COUNT, pixel_statistics
from support.exports import needs_onnx
from support.shared import built_once

NAMES = tuple(f"w{n}" for n in range(12))
SIDE = 64
"""Pixels; the tiny base takes images of another size."""


def network_of(model, photo_bias):
    """The model's own tower, twelve classes by chance, and a line that all images, or none, lie above."""
    torch.manual_seed(3)
    network = PhotoNetwork(model.vision_tower, len(NAMES)).eval()
    with torch.no_grad():
        network.classifier.weight.mul_(20)  # else one class is the likeliest of all images
        network.photo.weight.zero_()
        network.photo.bias.fill_(photo_bias)
    return network


@pytest.fixture
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")


def classifier_for(retriever, photo_bias=1.0, gate_bias=1.0):
    images = replace(preprocessing(retriever.processor.image_processor), height=SIDE, width=SIDE)
    drawn = np.random.default_rng(1)
    none = np.zeros(COUNT, np.float32)
    return torch_classifier(
        network_of(retriever.model, photo_bias),
        NAMES,
        images,
        gate=np.append(none, np.float32(gate_bias)),
        statistics=none,
        vectors=drawn.normal(size=(2, len(NAMES), retriever.dim)).astype(np.float32),
        direction=drawn.normal(size=retriever.dim).astype(np.float32),
    )


def images(count=6):
    drawn = np.random.default_rng(0)
    blocks = [drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(count)]
    sizes = [(90, 40), (64, 64), (200, 300), (33, 65), (16, 16), (640, 480)]
    return [Image.fromarray(b).resize(sizes[k % 6], Image.Resampling.BILINEAR) for k, b in enumerate(blocks)]


def same(found, wanted):
    return [one and one.to_bytes() for one in found] == [one and one.to_bytes() for one in wanted]


def test_it_gives_the_likeliest_classes_of_every_image_in_the_slow_obvious_way(retriever):
    classifier = classifier_for(retriever)
    _, found = classifier.recognised([Item(image=image) for image in images(40)])
    network = network_of(retriever.model, 1.0)
    for one, image in zip(found, images(40), strict=True):
        pixels = torch.from_numpy(classifier.images([image]))
        with torch.no_grad():
            pooled = network.tower(pixels).last_hidden_state.mean((2, 3))
            chances = (pooled[0] @ network.classifier.weight.T + network.classifier.bias).softmax(0).numpy()
        wanted = sorted(range(len(NAMES)), key=lambda k: -chances[k])[: photographs.LIKELIEST]
        assert one.classes.tolist() == wanted
        np.testing.assert_allclose(one.probabilities, chances[wanted], atol=1e-5)
    assert len({one.classes[0] for one in found}) > 1


def test_what_it_recognised_survives_a_cache():
    one = Shown.of(np.random.default_rng(0).normal(size=1000).astype(np.float32) * 3)
    back = Shown.from_bytes(one.to_bytes())
    np.testing.assert_array_equal(back.classes, one.classes)
    np.testing.assert_array_equal(back.probabilities, one.probabilities)
    few = Shown.of(np.array([0, 2], np.float32))  # fewer classes than count
    assert few.classes.tolist() == [1, 0]
    assert few.probabilities.sum() == pytest.approx(1)


def test_texts_images_with_a_text_and_what_cannot_be_opened_show_nothing(retriever, tmp_path):
    (image,) = images(1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    kept = [Item(text="w3"), Item(text="w3", image=image), Item(image=broken), Item(image=tmp_path / "gone.png")]
    assert classifier_for(retriever).recognised(kept) == (kept, [None] * 4)
    assert classifier_for(retriever).recognised([]) == ([], [])


@pytest.mark.parametrize("biases", [{"photo_bias": -1.0}, {"gate_bias": -1.0}])
def test_drawings_show_nothing_and_stop_at_the_gate(retriever, biases, monkeypatch):
    classifier = classifier_for(retriever, **biases)
    seen = []
    counted = replace(classifier, network=lambda pixels: seen.append(len(pixels)) or classifier.network(pixels))
    drawings = [Item(image=image) for image in images()]
    assert counted.recognised(drawings) == (drawings, [None] * 6)
    assert seen == ([] if "gate_bias" in biases else [6])


def test_gate_and_statistics_decide_by_the_pixels(retriever):
    photo, flat = images()[1], Image.new("RGB", (64, 64), "red")
    items = [Item(image=photo), Item(image=flat)]
    weights = np.zeros(COUNT, np.float32)
    weights[1] = -1.0  # the share of places that change little
    at_gate = replace(classifier_for(retriever), gate=np.append(weights, np.float32(0.5)))
    at_network = replace(classifier_for(retriever, photo_bias=0.5), statistics=weights)
    looked = classifier_for(retriever).images.resized(photo)
    assert pixel_statistics(looked)[1] < 0.5
    for classifier in (at_gate, at_network):
        _, found = classifier.recognised(items)
        assert [one is not None for one in found] == [True, False]


def test_vectors_of_photographs_move_towards_the_names_of_their_side(retriever, tmp_path):
    file = tmp_path / "large.jpg"
    images()[5].save(file, quality=95)
    items = [*(Item(image=image) for image in images()), Item(image=file), Item(text="w3"), Item(text="w9", image=file)]
    instructions = [None, "w1", "w1 w2", None, "w1", None, "w1", "w1", None]
    plain = retriever.encode(items, instructions)
    classifier = replace(classifier_for(retriever), direction=plain[1] - plain[0])
    retriever.photo_classifier = classifier
    _, shown = classifier.recognised(items)
    found = retriever.encode(items, instructions)
    sides = set()
    for row in range(7):  # the slow obvious way
        side = AMONG_TEXTS if plain[row] @ classifier.direction > 0 else AMONG_IMAGES
        sides.add(side)
        pairs = zip(shown[row].classes, shown[row].probabilities, strict=True)
        names = sum(chance * classifier.vectors[side, k] for k, chance in pairs)
        moved = plain[row] + STRENGTHS[side] * names / np.linalg.norm(names)
        np.testing.assert_allclose(found[row], moved / np.linalg.norm(moved), atol=1e-5)
    assert sides == {AMONG_IMAGES, AMONG_TEXTS}
    np.testing.assert_allclose(found[7:], plain[7:], atol=1e-5)
    one = np.concatenate([retriever.encode([item], own) for item, own in zip(items, instructions, strict=True)])
    np.testing.assert_allclose(one, found, atol=1e-5)
    retriever.photo_classifier = classifier_for(retriever, photo_bias=-1.0)
    np.testing.assert_allclose(retriever.encode(items, instructions), plain, atol=1e-5)


def test_cut_vectors_are_the_whole_ones_cut(retriever):
    retriever.photo_classifier = classifier_for(retriever)
    retriever.dimensions = (8,)
    whole, cut = (retriever.encode(images(), dimensions=length) for length in (None, 8))
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)


def test_names_of_no_length_move_nothing(retriever):
    classifier = classifier_for(retriever)
    plain = retriever.encode(images())
    retriever.photo_classifier = replace(classifier, vectors=np.zeros_like(classifier.vectors))
    np.testing.assert_allclose(retriever.encode(images()), plain, atol=1e-5)


def test_images_made_small_give_the_very_same_pixels(retriever):
    steps = preprocessing(retriever.processor.image_processor)
    items = [Item(image=image) for image in images()]
    for gate_bias in (1.0, -1.0):
        small, _ = classifier_for(retriever, gate_bias=gate_bias).recognised(items, steps)
        assert all(item.image.size == (steps.width, steps.height) for item in small)
        for before, after in zip(items, small, strict=True):
            np.testing.assert_array_equal(steps([before.image]), steps([after.image]))


def test_an_unreadable_image_is_named_as_without_a_classifier(retriever, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    retriever.photo_classifier = classifier_for(retriever)
    with pytest.raises(Exception, match=r"broken\.png"):
        retriever.encode([*images(), tmp_path / "broken.png"])


def test_it_is_saved_with_the_retriever_and_known_by_its_fingerprint(retriever, tmp_path):
    without = retriever.fingerprint
    retriever.photo_classifier = classifier_for(retriever)
    assert retriever.fingerprint != without
    for other in ({"photo_bias": 0.5}, {"gate_bias": 0.5}):
        assert classifier_for(retriever, **other).fingerprint != retriever.photo_classifier.fingerprint
    retriever.save_pretrained(tmp_path / "saved")
    back = Retriever.from_pretrained(tmp_path / "saved", device="cpu")
    assert back.fingerprint == retriever.fingerprint
    np.testing.assert_allclose(back.encode(images()), retriever.encode(images()), atol=1e-6)
    back.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FOLDER / WEIGHTS).read_bytes() == (tmp_path / "saved" / FOLDER / WEIGHTS).read_bytes()
    card = " ".join((tmp_path / "saved/README.md").read_text().split())
    assert f"photographs: PUMA adds to their vectors what the classifier in `{FOLDER}` recognises (12 classes)" in card


@pytest.mark.parametrize("damage", ["cut", "missing", "names", "json"])
def test_a_damaged_classifier_is_refused_with_the_remedy(retriever, tmp_path, damage):
    retriever.photo_classifier = classifier_for(retriever)
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


def test_classifiers_of_newer_and_of_early_versions_are_refused(retriever, tmp_path):
    retriever.photo_classifier = classifier_for(retriever)
    folder = retriever.save_pretrained(tmp_path / "saved")
    settings = json.loads((folder / FOLDER / SETTINGS).read_text())
    (folder / FOLDER / SETTINGS).write_text(json.dumps({**settings, "format": 9}))
    with pytest.raises(ModelError, match="update PUMA"):
        read_classifier(folder)
    assert read_classifier(tmp_path) is None
    (tmp_path / BEFORE).mkdir()
    with pytest.raises(ModelError, match=r"puma_tagger: made by an earlier PUMA.* delete this folder"):
        read_classifier(tmp_path)


def test_other_programs_are_compared_without_it(retriever, tmp_path):
    retriever.photo_classifier = classifier_for(retriever)
    folder = retriever.save_pretrained(tmp_path / "saved")
    found = compare(Retriever.from_pretrained(folder, device="cpu"), folder)
    assert min(parity.worst for parity in found) > LEAST


def test_a_cache_on_the_disk_keeps_what_it_recognised_and_no_image_is_opened_again(retriever, tmp_path, monkeypatch):
    from puma.retriever.encoding.image_cache import ImageCache

    files = []
    for number, image in enumerate(images()):
        files.append(tmp_path / f"{number}.png")
        image.save(files[-1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    retriever.photo_classifier = classifier = classifier_for(retriever)
    plain = retriever.encode(files)
    retriever.image_cache = ImageCache(tmp_path / "cache")
    first = retriever.encode(files)
    np.testing.assert_allclose(first, plain, atol=1e-5)
    items = [Item(image=path) for path in [*files, broken]]
    _, shown = classifier.recognised(items)
    monkeypatch.setattr(Item, "open_image", lambda self, **_: pytest.fail(f"opened {self.image_name}"))
    assert same(classifier.recognised(items[:-1], cache=retriever.image_cache)[1], shown[:-1])
    retriever.image_cache = ImageCache(tmp_path / "cache")
    np.testing.assert_array_equal(retriever.encode(files), first)
    monkeypatch.undo()
    other = classifier_for(retriever, photo_bias=-1.0)
    assert other.recognised(items, cache=retriever.image_cache) == (items, [None] * 7)  # it looks for itself
    with monkeypatch.context() as patched:  # that an image is a drawing is kept, too
        patched.setattr(Item, "open_image", lambda self, **_: pytest.fail(f"opened {self.image_name}"))
        assert other.recognised(items[:-1], cache=retriever.image_cache) == (items[:-1], [None] * 6)
    assert same(classifier.recognised(items, cache=retriever.image_cache)[1], shown)


def test_a_later_small_call_opens_and_classifies_nothing_again(retriever, tmp_path, monkeypatch):
    images()[0].save(tmp_path / "one.png")
    path = tmp_path / "one.png"
    items = [Item(image=path), Item(image=path), Item(image=path, text="w3"), Item(image=images()[1])]
    instructions = [None, "w1", "w1", None]
    retriever.photo_classifier = classifier_for(retriever)
    first = retriever.encode(items, instructions)
    opened, looked, opening = [], [], Item.open_image
    monkeypatch.setattr(Item, "open_image", lambda self, **more: opened.append(self.image) or opening(self, **more))
    monkeypatch.setattr(PhotoClassifier, "_shown", lambda self, given: looked.append(given))
    np.testing.assert_allclose(retriever.encode(items, instructions), first, atol=1e-6)
    assert (opened, looked) == ([], [])
    monkeypatch.undo()
    images()[2].save(path)  # another image under the same name is read anew
    assert np.abs(retriever.encode(items, instructions) - first)[:3].max(1).min() > 1e-3
    np.testing.assert_allclose(retriever.encode(items, instructions)[3], first[3], atol=1e-6)


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    """The export of a retriever that recognises every image."""
    needs_onnx()
    from puma.retriever.onnx.exporting import export_onnx

    def build(out):
        made = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")
        made.photo_classifier = classifier_for(made)
        export_onnx(made, out, source="here")

    return built_once(tmp_path_factory, "onnx-photo-classifier", build)


def test_an_export_recognises_what_the_model_does(retriever, exported, tmp_path):
    from puma.retriever.onnx.layout import EXPORT_FILE
    from puma.retriever.onnx.photo_classifier import ARRAYS, FILE

    retriever.photo_classifier = classifier_for(retriever)
    out = shutil.copytree(exported, tmp_path / "exported")
    light = Retriever.from_pretrained(out)
    items = [*(Item(image=image) for image in images()), Item(text="w3"), Item(text="w3", image=images()[0])]
    _, found = light.photo_classifier.recognised(items)
    _, wanted = retriever.photo_classifier.recognised(items)
    for one, other in zip(found[:6], wanted[:6], strict=True):
        assert one.classes.tolist() == other.classes.tolist()
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert found[6:] == wanted[6:] == [None, None]
    for instruction in (None, "w1"):
        assert (light.encode(items, instruction) * retriever.encode(items, instruction)).sum(1).min() > 0.99999
    assert light.fingerprint == retriever.fingerprint
    facts = json.loads((out / EXPORT_FILE).read_text())
    assert facts["format"] == 2
    for missing in (FILE, ARRAYS):
        left = shutil.copytree(exported, tmp_path / missing)
        (left / missing).unlink()
        with pytest.raises(ModelError, match="export the model again"):
            Retriever.from_pretrained(left).encode(items)
    (out / EXPORT_FILE).write_text(json.dumps({**facts, "tagged": True}))
    with pytest.raises(ModelError, match="worked in another way: export the model again"):
        Retriever.from_pretrained(out)


@pytest.mark.parametrize("disk", [False, True])
def test_an_export_opens_an_image_once_for_both_and_not_again(exported, disk, tmp_path, monkeypatch):
    images()[0].save(tmp_path / "one.png")
    path, other = tmp_path / "one.png", images()[1]
    items = [Item(image=path), Item(image=path), Item(image=path, text="w3"), Item(image=other), Item(text="w3")]
    instructions = [None, "w1", "w1", None, None]
    light = Retriever.from_pretrained(exported)
    alone = [light.encode([item], one) for item, one in zip(items, instructions, strict=True)]
    opened, classified, opening, shown = [], [], Item.open_image, PhotoClassifier._shown
    monkeypatch.setattr(Item, "open_image", lambda self, **more: opened.append(self.image) or opening(self, **more))
    monkeypatch.setattr(PhotoClassifier, "_shown", lambda self, given: classified.extend(given) or shown(self, given))

    def fresh():
        opened.clear(), classified.clear()
        return Retriever.from_pretrained(exported, image_cache=tmp_path / "cache" if disk else None)

    light = fresh()
    for _ in range(3):
        found = light.encode(items, instructions, batch_size=2)
        np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-6)
        # Beside these only what the classifier had made small is opened.
        assert (sum(one is path or one is other for one in opened), len(classified)) == (2, 2)
    found = fresh().encode(items, instructions)
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-6)
    assert (len(opened) > 0, len(classified)) == ((False, 0) if disk else (True, 2))


@pytest.mark.slow
def test_an_export_of_texts_alone_has_no_classifier(retriever, tmp_path):
    needs_onnx()
    from puma.retriever.onnx.exporting import export_onnx

    retriever.photo_classifier = classifier_for(retriever)
    export_onnx(retriever, tmp_path / "exported", source="here", text_only=True)
    assert not any("classifier" in path.name for path in (tmp_path / "exported").iterdir())
    light = Retriever.from_pretrained(tmp_path / "exported")
    light.encode(["w3"])
    assert light.photo_classifier is None


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
