"""The quickstart's road on a tiny base and a tiny benchmark: every file it promises, and a run that was cut goes on."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from puma.data import mbeir
from puma.errors import InputError
from puma.items.item import FileBytes, Item
from puma.mini import quickstart as module
from puma.mini import training
from puma.mini.base.known_images import KnownImages
from puma.mini.quickstart import quickstart
from puma.retriever.model import Retriever
from puma.search import Searcher
from puma.training.recipes.recipe import read_recipe
from support import tiny

COLOURS = ["red", "green", "blue", "black", "white", "pink"]
THINGS = ["circle", "square", "bar", "cross", "dot", "ring"]


def draw(thing, colour, seed):
    rng = np.random.default_rng(seed)
    pixels = np.full((64, 64, 3), 200, dtype=np.uint8)
    side = 10 + 8 * THINGS.index(thing)
    value = np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)), dtype=np.uint8)
    pixels[4 : 4 + side, 4 : 4 + (side if THINGS.index(thing) % 2 else 12)] = value
    return Image.fromarray(pixels ^ rng.integers(0, 4, pixels.shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Tasks 0, 1 and 3 over 36 drawn things; every split has them all (nothing is claimed of quality here)."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    folder = root / "mbeir_images" / "tiny"
    folder.mkdir(parents=True)
    names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    paths = []
    for number, name in enumerate(names):
        path = folder / f"{number}.png"
        draw(*reversed(name.split()), number).save(path)
        paths.append(f"mbeir_images/tiny/{number}.png")
    count = len(names)
    for split in ("train", "val", "test"):
        images = [
            mbeir.Candidate(did=f"20:{n + 1}", text=None, image_path=paths[n], modality="image") for n in range(count)
        ]
        texts = [
            mbeir.Candidate(did=f"20:{n + 101}", text=names[n], image_path=None, modality="text") for n in range(count)
        ]
        for task, pool, modality in ((0, images, "text"), (1, texts, "text"), (3, texts, "image")):
            queries = [
                mbeir.Query(
                    qid=f"20:{1000 * task + n + 1}",
                    text=None if modality == "image" else (names[n] if task == 0 else f"a {names[n]} drawn"),
                    image_path=paths[n] if modality == "image" else None,
                    modality=modality,
                    positives=(pool[n].did,),
                    negatives=(),
                    task_id=task,
                )
                for n in range(count)
            ]
            mbeir.write_queries(mbeir.query_path(root, "tiny", task, split), queries)
            mbeir.write_pool(mbeir.pool_path(root, "tiny", task, split), pool)
            qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in queries}
            mbeir.write_qrels(mbeir.qrels_path(root, "tiny", task, split), qrels, task)
        mbeir.write_pool(mbeir.global_pool_path(root, split), [*images, *texts])
    rows = [(*mbeir.TASK_MODALITIES[task], "tiny", 20, [f"Find it, task {task}."]) for task in (0, 1, 3)]
    mbeir.write_instructions(mbeir.instructions_path(root), rows)
    return root


SMALL = read_recipe("mini-distilled")
SMALL = replace(
    SMALL,
    layers=2,
    distil=replace(SMALL.distil, steps=3, batch_size=8, precision="fp32"),
    retrieve=replace(SMALL.retrieve, steps=4, minutes=0, batch_size=8, precision="fp32"),
)


@pytest.fixture(scope="module")
def finished(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    base = tiny.base_folder(folder / "base")
    output = []
    results = quickstart(
        folder / "out", home=folder / "home", recipe=SMALL, say=output.append, root=benchmark, base=base
    )
    return folder, results, output


def test_results_have_the_promised_shape(finished):
    folder, results, _ = finished
    assert json.loads((folder / "out" / "results.json").read_text()) == results
    assert set(results["systems"]) == {"trained", "pruned_untrained", "ridge_baseline", "chance"}
    for tasks in results["systems"].values():
        assert set(tasks) == {"0", "1", "3"}
        for table in tasks.values():
            assert table["pool"] == table["queries"] == 36
            for key in ("hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@10"):
                assert 0 <= table[key] <= 1
    assert {"train", "distil", "evaluate trained", "index", "search"} <= set(results["seconds"])
    assert results["steps"] == {"distil": 3, "retrieve": 4}


def test_the_model_and_the_index_answer(finished):
    folder, _, _ = finished
    searcher = Searcher(Retriever.from_pretrained(folder / "out" / "model", device="cpu"), folder / "out" / "index")
    assert len(searcher.index) == 36 * 2
    hits = searcher.search("red circle", k=3, modality="image")
    assert len(hits) == 3
    assert {hit.modality for hit in hits} == {"image"}


def test_the_report_is_one_file_without_outside_addresses(finished):
    folder, _, output = finished
    page = (folder / "out" / "report.html").read_text()
    assert "Task 0" in page
    assert "Stage 1: self-distillation" in page
    assert "Stage 2: split MAC-Loss" in page
    assert "Distilled for 3 steps, then trained for 4 steps of 8 pairs, seed 0" in page
    assert "data:image/" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert any("puma search" in line for line in output)
    assert not (folder / "out" / "work").exists()


def test_without_a_first_stage_as_the_shipped_recipe_has_it(benchmark, tmp_path):
    assert read_recipe("mini").distil is None
    arguments = {"home": tmp_path / "home", "say": lambda _: None, "root": benchmark}
    base = tiny.base_folder(tmp_path / "base")
    results = quickstart(tmp_path / "out", recipe=replace(SMALL, distil=None), base=base, **arguments)
    assert results["steps"] == {"retrieve": 4}
    assert "distil" not in results["seconds"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Trained for 4 steps of 8 pairs, seed 0" in page
    assert "split MAC-Loss" in page
    assert not re.findall("Stage [12]", page)


def test_a_cut_run_goes_on_without_training_again(benchmark, tmp_path, monkeypatch):
    base = tiny.base_folder(tmp_path / "base")
    trained = []

    def counted(*args, **kwargs):
        trained.append(1)
        return train(*args, **kwargs)

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    train, indexed = training.train, module._build_index
    monkeypatch.setattr(training, "train", counted)
    monkeypatch.setattr(module, "_build_index", cut)
    arguments = {"home": tmp_path / "home", "recipe": SMALL, "say": lambda _: None, "root": benchmark, "base": base}
    with pytest.raises(KeyboardInterrupt):
        quickstart(tmp_path / "out", **arguments)
    assert not (tmp_path / "out" / "results.json").exists()
    assert len(trained) == 2
    monkeypatch.setattr(module, "_build_index", indexed)
    results = quickstart(tmp_path / "out", **arguments)
    assert len(trained) == 2
    assert results["systems"]["trained"]
    assert results["seconds"]["train"] > 0


def test_minutes_end_the_training_and_more_of_them_train_on(benchmark, tmp_path, monkeypatch):
    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    output, out, indexed = [], tmp_path / "out", module._build_index
    arguments = {"home": tmp_path / "home", "recipe": SMALL, "say": output.append, "root": benchmark}
    arguments["base"] = tiny.base_folder(tmp_path / "base")
    monkeypatch.setattr(module, "_build_index", cut)
    with pytest.raises(KeyboardInterrupt):
        quickstart(out, minutes=0.02, **arguments)
    first = json.loads((out / "work" / "retrieve" / "log.json").read_text())
    assert first["minutes"] >= 0.02
    assert first["log"][-1]["step"] == first["steps"]  # whatever the log's interval is
    output.clear()
    with pytest.raises(KeyboardInterrupt):
        quickstart(out, minutes=0.02, **arguments)
    assert not any(line.endswith(("train ...", "evaluate trained ...")) for line in output)
    monkeypatch.setattr(module, "_build_index", indexed)
    more = first["minutes"] + 0.05
    results = quickstart(out, minutes=more, **arguments)
    assert results["steps"]["retrieve"] > first["steps"]
    assert any(line.endswith("evaluate trained ...") for line in output)
    note = f"trained for {results['steps']['retrieve']} steps of 8 pairs in the {more:g} minutes that it had"
    assert note in (out / "report.html").read_text()
    with pytest.raises(InputError, match=r"minutes=0: give a positive number"):
        quickstart(out, minutes=0, **arguments)


def test_stored_features_are_found_by_the_path_of_a_file_read_or_not(benchmark):
    class Rows:
        rows = np.arange(8, dtype=np.float16).reshape(2, 4, 1, 1)
        index = np.array([1, -1])

    paths = sorted((benchmark / "mbeir_images").rglob("*.png"))[:2]
    known = KnownImages(paths, Rows)
    assert np.array_equal(known.lookup(Item(image=paths[0])), Rows.rows[1])
    read = FileBytes(paths[0].read_bytes(), str(paths[0]))  # as an index hands its images on
    assert np.array_equal(known.lookup(Item(image=read)), Rows.rows[1])
    assert known.lookup(Item(image=bytes(read))) is None
    assert known.lookup(Item(image=paths[1])) is None
    assert known.lookup(Item(image=Image.new("RGB", (4, 4)))) is None


def test_out_must_not_be_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        quickstart(tmp_path / "file")


def test_where_bf16_is_emulated_everything_is_fp32(monkeypatch):
    from puma.mini.base import vision
    from puma.retriever import devices

    for capabilities, fast in (({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)):
        monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
        assert devices.has_fast_bf16() is fast
        assert vision.tower_precision() == ("bfloat16" if fast else "float32")
        plan = training.for_this_machine(read_recipe("mini-distilled"))
        assert {plan.distil.precision, plan.retrieve.precision} == {"bf16" if fast else "fp32"}
