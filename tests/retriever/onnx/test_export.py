"""Exported retrievers: the model's own vectors, whatever the batch and the family; and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch

from puma.cli import app as cli
from puma.errors import DependencyError, InputError, ModelError
from puma.items import Item
from puma.retriever.cores import usable_cores
from puma.retriever.known import describe
from puma.retriever.model import Retriever
from puma.retriever.onnx.exporting import export_onnx
from puma.retriever.onnx.layout import EXPORT_FILE, FORMAT, TEXT_GRAPH
from puma.retriever.onnx.sessions import thread_count
from support import tiny
from support.exports import graphs_of, needs_onnx
from support.plain import image

needs_onnx()

LONG = "a fox and a heart and a cat. " * 200


MIXED = [
    "a red fox",
    "x",
    {"image": image(0)},
    {"image": image(1, (200, 90)), "text": "at night"},
    "[RET] <image> <|endoftext|> Füchse, 狐 and 🦊",
    LONG,
    {"text": "blue", "image": image(2, (3, 900))},
]


@pytest.fixture(scope="module")
def light(folder):
    return Retriever.from_pretrained(folder)


@pytest.mark.parametrize("instruction", [None, "Find a picture.", [None, "Find <image>.", *[None] * 3, LONG, "Find."]])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_vectors_are_the_models(retriever, light, instruction, batch_size):
    counts, wanted_counts = np.zeros(len(MIXED), int), np.zeros(len(MIXED), int)
    found = light.encode(MIXED, instruction, batch_size, tokens=counts)
    wanted = retriever.encode(MIXED, instruction, tokens=wanted_counts)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-5
    assert (found * wanted).sum(1).min() > 0.9999
    np.testing.assert_array_equal(counts, wanted_counts)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_what_is_known_of_an_instruction_changes_nothing(retriever, folder, batch_size):
    light = Retriever.from_pretrained(folder)  # one that knows none yet
    asked = "Find a picture that matches this, summarize the above image in one word. " * 3
    items = [*MIXED, *(f"a cat {number}" for number in range(20))]
    wanted = {text: retriever.encode(items, text) for text in (asked, "Find it.", None)}
    for _ in range(3):  # at first it is computed, or recorded from a pass over whole sequences; then it is there
        for text in (asked, "Find it.", asked, None):
            assert np.abs(light.encode(items, text, batch_size) - wanted[text]).max() < 1e-5
    alone = Retriever.from_pretrained(folder)
    for item, row in zip([*items, *items], [*wanted[asked], *wanted[asked]], strict=True):
        assert np.abs(alone.encode(item, asked)[0] - row).max() < 1e-5
    mixed = [(None, "Find it.", asked)[place % 3] for place in range(len(items))]
    found = light.encode(items, mixed, batch_size)
    assert max(np.abs(found[i] - wanted[text][i]).max() for i, text in enumerate(mixed)) < 1e-5


def test_a_known_instruction_is_not_computed_again(folder, monkeypatch):
    light = Retriever.from_pretrained(folder)
    asked = "Find a picture that matches this, summarize the above image in one word. " * 3
    computed = []
    plain = light._run

    def run(sequences, *rest):
        computed.append(sum(map(len, sequences)))
        return plain(sequences, *rest)

    monkeypatch.setattr(light, "_run", run)
    whole = light.writer.token_lists([Item("a fox")], [asked])
    light.encode("a fox", asked)
    light.encode("a fox", asked)
    light.encode([f"fox {number}" for number in range(8)], asked)
    assert computed[0] == len(whole[0])
    assert computed[1] < 12 < len(whole[0]) / 3
    assert len(computed) == 3
    assert computed[2] < 8 * 12


def test_one_item_none_and_an_iterator(retriever, light):
    assert light.encode([]).shape == (0, retriever.dim)
    for one in ("a fox", {"image": image(4)}, Item(text="a fox"), image(4)):
        np.testing.assert_allclose(light.encode(one), retriever.encode(one), atol=1e-5)
    np.testing.assert_array_equal(light.encode(iter(["a", "b"])), light.encode(["a", "b"]))
    with pytest.raises(InputError, match="instruction: 1 of them for 2 items"):
        light.encode(["a", "b"], ["Find."])
    with pytest.raises(InputError, match="batch_size=0"):
        light.encode(["a"], batch_size=0)


def test_images_matter(light):
    one, other = light.encode([{"image": image(0)}, {"image": image(1)}])
    assert np.abs(one - other).max() > 1e-4


def test_it_says_of_itself_what_the_model_says(retriever, light, folder):
    assert (light.dim, light.fingerprint) == (retriever.dim, retriever.fingerprint)
    assert (light.mixed_instructions, light.counts_tokens) == (True, True)
    known = describe(folder)
    assert (known.layers, known.dim) == (2, retriever.dim)
    assert known.size == sum(file.stat().st_size for file in folder.glob("*.onnx*"))


def test_texts_are_counted_and_decoded_as_by_the_model(retriever, light):
    for text in ("a red fox", "x", LONG, "Füchse, 狐 <image>"):
        assert light.text_tokens.count(text) == retriever.text_tokens.count(text)
        assert light.text_tokens.is_cut(text) == retriever.text_tokens.is_cut(text) == (text is LONG)
    ids = retriever.processor.tokenizer("a blue heart", add_special_tokens=False)["input_ids"]
    assert light.text_tokens.decode(ids) == retriever.text_tokens.decode(ids) == "a blue heart"
    for wrong in ([retriever.inputs.ret_id], [10**6], [int(retriever.processor.tokenizer.eos_token_id)]):
        with pytest.raises(InputError):
            light.text_tokens.decode(wrong)


def test_instructions_and_origin_go_along(base, folder, tmp_path):
    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")
    retriever.instructions = {("text", "image"): "Find an image.", ("image", None): "Find it."}
    retriever.about = {"base_model": "org/name", "license": "apache-2.0"}
    with graphs_of(folder):
        export_onnx(retriever, tmp_path / "out", source="here", text_only=True)
    light = Retriever.from_pretrained(tmp_path / "out")
    assert (light.instructions, light.about) == (retriever.instructions, retriever.about)
    # A folder that will never hold anything is refused rather than made.
    with pytest.raises(InputError, match=r"^image_cache='seen': model '.*' is an ONNX export of the text side alone"):
        Retriever.from_pretrained(tmp_path / "out", image_cache="seen")


@pytest.mark.slow
def test_a_trained_models_folder_keeps_its_prompt(base, tmp_path):
    retriever = Retriever.from_base(base, layers=1, prompt="open-quote", device="cpu", dtype="fp32")
    retriever.save_pretrained(tmp_path / "model")
    again = Retriever.from_pretrained(tmp_path / "model", device="cpu")
    export_onnx(again, tmp_path / "out", source="here")
    light = Retriever.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(light.encode(MIXED, "Find."), retriever.encode(MIXED, "Find."), atol=1e-5)


def test_half_precision_is_refused_with_the_remedy(base, tmp_path):
    retriever = Retriever.from_base(base, layers=1, prompt="short", device="cpu", dtype="bf16")
    with pytest.raises(InputError, match="bfloat16 on cpu; for an export load it with dtype='fp32'"):
        export_onnx(retriever, tmp_path / "out", source="here")


def test_an_export_whose_vectors_are_others_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr("puma.retriever.onnx.graphs.last_token_state", lambda states, mask: states[:, 0])
    retriever = Retriever.from_base(base, layers=1, prompt="short", device="cpu", dtype="fp32")
    with pytest.raises(ModelError, match="the exported graphs' vectors are not the model's"):
        export_onnx(retriever, tmp_path / "out", source="here", text_only=True)
    assert list(tmp_path.iterdir()) == []


def copied(folder, out):
    """The folder's files but for its graphs, which are linked."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).symlink_to(file)
    return out


def changed(folder, out, **values):
    copied(folder, out)
    written = {**json.loads((folder / EXPORT_FILE).read_text()), **values}
    (out / EXPORT_FILE).unlink()
    (out / EXPORT_FILE).write_text(json.dumps(written))
    return out


def test_an_export_of_a_newer_version_is_refused_with_the_remedy(folder, tmp_path):
    newer = changed(folder, tmp_path / "newer", format=FORMAT + 1, puma="9.0.0", base=None)
    with pytest.raises(ModelError, match=r"exported by a newer version, PUMA 9\.0\.0 .*update PUMA, or export"):
        Retriever.from_pretrained(newer)
    assert Retriever.from_pretrained(changed(folder, tmp_path / "more", unheard_of=1)).dim == tiny.HIDDEN


def test_a_folder_that_an_earlier_version_can_read_says_so(folder):
    """Format 1, as it was written before there were patches and tiles."""
    values = json.loads((folder / EXPORT_FILE).read_text())
    assert values["format"] == 1
    assert values["images"] == {
        "height": 64,
        "width": 64,
        "shortest_edge": 0,
        "resample": 3,
        "crop": None,
        "scale": 1 / 255,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }


@pytest.mark.parametrize(
    "harm", ["no JSON", "a list", "a field is missing", "no text graph", "half a graph", "half the weights", "tokens"]
)
def test_a_damaged_export_is_named(folder, tmp_path, harm):
    out = copied(folder, tmp_path / "out")
    files = {"no text graph": TEXT_GRAPH, "half a graph": TEXT_GRAPH, "tokens": "tokenizer.json"}
    file = {**files, "half the weights": f"{TEXT_GRAPH}.data"}.get(harm, EXPORT_FILE)
    whole = (out / file).read_bytes()
    (out / file).unlink()
    if harm == "a field is missing":
        kept = json.loads(whole)
        del kept["images"]
        (out / file).write_text(json.dumps(kept))
    elif harm != "no text graph":
        (out / file).write_bytes({"no JSON": b"{", "a list": b"[]"}.get(harm, whole[: len(whole) // 2]))
    with pytest.raises(ModelError, match=rf"{file.removesuffix('.data')}.*export (the model|it) again"):
        Retriever.from_pretrained(out)


def test_a_missing_onnxruntime_is_named_with_the_command(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"an ONNX export, needs onnxruntime.*pip install onnxruntime"):
        Retriever.from_pretrained(folder)
    assert cli.main(["search", "no.index", "fox", "--model", str(folder)]) != 0
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bf16"},
        {"dtype": torch.float32},
        {"attn": "sdpa"},
        {"layers": 1},
        {"device": "cuda"},
    ],
)
def test_what_was_decided_at_the_export_cannot_be_asked_for(folder, options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(InputError, match=rf"^{name}={value!r}: .*is an ONNX export in fp32, for the CPU"):
        Retriever.from_pretrained(folder, **options)
    assert Retriever.from_pretrained(folder, device="cpu").dim == tiny.HIDDEN


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("4,2", 4), ("0", None), ("many", None), ("", None)])
def test_threads_are_those_of_the_environment_else_the_cores_it_may_use(given, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert thread_count() == (threads or usable_cores())


def test_what_needs_weights_names_the_model_it_was_made_of(light, folder, base, tmp_path, capsys):
    with pytest.raises(ModelError, match="an ONNX export only embeds; for anything else name the model that it was"):
        light.save_pretrained(tmp_path / "again")
    assert getattr(light, "model", None) is None
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        light.colour  # noqa: B018
    (tmp_path / "pairs.csv").write_text("query_text,positive_text\n" + "".join(f"a{i},b{i}\n" for i in range(40)))
    train = ["train", "--model", folder, "--data", tmp_path / "pairs.csv", "--out", tmp_path / "model"]
    assert cli.main([str(word) for word in train]) == 2
    assert f"an ONNX export only embeds; for anything else name the model that it was made of ({base})" in (
        capsys.readouterr().err
    )


def test_the_command(base, folder, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="bf16")
    retriever.exits = (1,)
    retriever.save_pretrained(model)

    def run(*words):
        code = cli.main(["export", *map(str, words)])
        return code, capsys.readouterr()

    code, said = run(model, out, "--format", "onnx")
    assert code == 0
    assert "texts and images, fp32" in said.out
    assert "at least 1.000000" in said.out or "at least 0.9999" in said.out
    whole = Retriever.from_pretrained(model, device="cpu", dtype="fp32")
    np.testing.assert_allclose(Retriever.from_pretrained(out).encode(MIXED), whole.encode(MIXED), atol=1e-5)
    code, said = run(model, out, "--format", "onnx")
    assert (code, "--replace" in said.err) == (2, True)
    code, said = run(model, out, "--format", "onnx", "--int8", "--text-only", "--layers", 1, "--replace", "--json")
    written = json.loads(said.out)
    assert describe(out).layers == 1
    assert (code, written["precision"], written["images"], written["image_cosine"]) == (0, "int8", False, None)
    code, said = run(model, tmp_path / "other", "--format", "tflite")
    assert (code, said.err) == (2, "error: --format tflite: give one of onnx, vllm\n")
    code, said = run(model, tmp_path / "other", "--format", "vllm", "--int8", "--layers", 1)
    assert (code, said.err) == (2, "error: --int8, --layers: only with --format onnx; leave out\n")
    code, said = run(folder, tmp_path / "other", "--format", "onnx")
    assert (code, "is an ONNX export already" in said.err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_the_command_without_its_extra_makes_nothing(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.main(["export", str(base), str(tmp_path / "out"), "--format", "onnx"]) == 1
    assert capsys.readouterr().err.endswith("pip install 'puma-retrieval[onnx]'\n")
    assert list(tmp_path.iterdir()) == []
