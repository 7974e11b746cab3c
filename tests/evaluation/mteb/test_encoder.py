"""Runs through mteb: our figures on all eight tasks; images and instructions reach the encoder; no hub."""

import hashlib
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from puma.data.mbeir import TASK_MODALITIES, pool_path, query_path, read_pool, read_queries, write_pool
from puma.errors import DataError, DependencyError, DownloadError, InputError
from puma.evaluation.mbeir import evaluate
from puma.items import IMAGE_TEXT, Item
from support.benchmarks import random_tasks

pytest.importorskip("mteb")

from puma.evaluation.mteb import tasks as mteb_tasks
from puma.evaluation.mteb.encoder import MtebEncoder

METRICS = [f"{metric}@{k}" for metric in ("hit_rate", "recall") for k in (1, 5, 10)] + ["ndcg@10", "mrr@10"]


class ContentEncoder:
    """A vector drawn by the item's whole content and the instruction: no ties, and nothing can be left out unseen."""

    dim, fingerprint = 16, "content-1"

    def __init__(self):
        self.seen = []

    def encode(self, items, *, instruction=None):
        self.seen += [(item.modality, instruction) for item in items]
        rows = np.zeros((len(items), self.dim), dtype=np.float32)
        for row, item in zip(rows, items, strict=True):
            image = item.open_image()
            pixels = b"" if image is None else image.tobytes()
            seed = hashlib.sha256(f"{instruction}|{item.text}|".encode() + pixels).digest()
            row[:] = np.random.default_rng(int.from_bytes(seed[:8], "big")).normal(size=self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("something went for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return random_tasks(tmp_path_factory.mktemp("eight"))


def test_figures_equal_ours_on_all_eight_tasks_and_both_pools(root):
    ours = evaluate(ContentEncoder(), root, progress=False)
    theirs = mteb_tasks.run(ContentEncoder(), root=root, pools=("local", "global"), progress=False)
    assert list(theirs) == list(ours) == [str(task) for task in TASK_MODALITIES]
    for task, table in ours.items():
        for mine, other in [(table, theirs[task]), (table["global"], theirs[task]["global"])]:
            assert {key: mine[key] for key in METRICS} == pytest.approx({key: other[key] for key in METRICS}, abs=1e-5)
            assert (mine["pool"], mine["queries"], mine["skipped"]) == (other["pool"], other["queries"], 0)
    # The figures say something: neither all nothing nor all right, and not the same everywhere.
    assert len({table["recall@5"] for table in ours.values()}) > 3
    assert theirs["7"]["name"] == "tinyIT2IRetrieval"
    assert theirs["7"]["mteb"]["hit_rate_at_5"] == theirs["7"]["hit_rate@5"]


def test_figures_equal_ours_with_a_real_model(root, base):
    import torch

    from puma.retriever.model import Retriever

    retriever = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    with torch.no_grad():  # as it is initialised, the tiny tower gives zeros whatever the image
        for name, weight in retriever.model.named_parameters():
            if "vision_tower" in name and weight.dim() >= 2:
                weight.mul_(40)
            elif "vision_tower" in name and name.endswith("weight"):
                weight.fill_(1)
    images = retriever.encode([Item(image=path) for path in sorted(root.glob("mbeir_images/*.png"))[:20]])
    assert np.tril(images @ images.T, -1).max() < 0.9999  # now they differ
    ours = evaluate(retriever, root, pools=("local",), progress=False)
    theirs = mteb_tasks.run(retriever, root=root, progress=False)
    for task, table in ours.items():
        assert {key: table[key] for key in METRICS} == pytest.approx({k: theirs[task][k] for k in METRICS}, abs=1e-5)


def test_tasks_of_several_data_sets_go_by_label(root):
    ours = evaluate(ContentEncoder(), root, dataset="all", tasks=["tiny_task2"], pools=("local",), progress=False)
    theirs = mteb_tasks.run(ContentEncoder(), ["tiny_task2"], root=root, dataset="all", progress=False)
    assert list(theirs) == list(ours) == ["tiny_task2"]
    assert theirs["tiny_task2"]["hit_rate@5"] == pytest.approx(ours["tiny_task2"]["hit_rate@5"], abs=1e-5)
    both = mteb_tasks.run(ContentEncoder(), ["2", "tinyIT2TRetrieval"], root=root, progress=False)
    assert list(both) == ["2", "6"]


def test_images_and_instructions_reach_the_encoder(root):
    encoder = ContentEncoder()
    mteb_tasks.run(encoder, ["8"], root=root, progress=False)
    assert sorted(set(encoder.seen), key=str) == [
        (IMAGE_TEXT, "Find the image,text of task 8."),
        (IMAGE_TEXT, None),
    ]
    assert [instruction for _, instruction in encoder.seen].count(None) == 17  # the candidates
    silent = ContentEncoder()
    mteb_tasks.run(silent, ["tinyIT2ITRetrieval"], root=root, instruction="none", progress=False)
    assert {instruction for _, instruction in silent.seen} == {None}


def test_mteb_is_told_of_both_modalities(root):
    """mteb leaves out, or warns of, what a model's record does not name."""
    meta = MtebEncoder(ContentEncoder(), name="mini").mteb_model_meta
    assert set(meta.modalities) == {"text", "image"}
    assert (meta.name, meta.revision, meta.embed_dim) == ("puma/mini", "content-1", 16)
    (task,) = mteb_tasks.tasks(root, chosen=[6])
    assert task.metadata.type == "Any2AnyRetrieval"
    assert task.metadata.category == "it2t"
    assert task.metadata.prompt == {"query": "Find the text of task 6."}


def test_a_documents_text_comes_as_it_stands_in_its_file(root, tmp_path):
    """mteb strips it; a tokenizer may see the difference."""
    spaced = random_tasks(tmp_path / "spaced", queries=2, candidates=3)
    path = pool_path(spaced, "tiny", 3, "test")
    pool = read_pool(path)
    write_pool(path, [type(one)(one.did, f"  {one.text}\n", None, "text") for one in pool])

    class Listening(ContentEncoder):
        texts = ()

        def encode(self, items, *, instruction=None):
            self.texts += tuple(item.text for item in items if instruction is None)
            return super().encode(items, instruction=instruction)

    encoder = Listening()
    mteb_tasks.run(encoder, [3], root=spaced, progress=False)
    assert sorted(encoder.texts) == sorted(f"  {one.text}\n" for one in pool)


def test_unreadable_images_are_misses_as_with_us(tmp_path):
    root = random_tasks(tmp_path / "faulty", queries=5, candidates=6)
    for task in (4, 7):
        record = read_pool(pool_path(root, "tiny", task, "test"))[0]
        (root / record.image_path).write_bytes(b"no picture")
    lost = read_queries(query_path(root, "tiny", 7, "test"))[1]
    (root / lost.image_path).unlink()
    ours = evaluate(ContentEncoder(), root, tasks=[4, 7], pools=("local",), ks=(1, 3, 6), progress=False)
    theirs = mteb_tasks.run(ContentEncoder(), [4, 7], root=root, ks=(1, 3, 6), progress=False)
    for task in ("4", "7"):
        keys = [key for key in ours[task] if key.startswith(("hit_rate", "recall"))]
        assert {k: ours[task][k] for k in keys} == pytest.approx({k: theirs[task][k] for k in keys}, abs=1e-5)
        for key in ("pool", "queries", "skipped"):
            assert ours[task][key] == theirs[task][key]
        assert sorted(ours[task]["skipped_items"]) == sorted(theirs[task]["skipped_items"])
    assert theirs["7"]["skipped"] == 2
    assert ours["7"]["hit_rate@6"] < 1  # the lost query


def test_ties_are_where_mteb_is_kinder(root):
    class Constant(ContentEncoder):
        def encode(self, items, *, instruction=None):
            return np.full((len(items), self.dim), self.dim**-0.5, dtype=np.float32)

    assert evaluate(Constant(), root, tasks=[1], pools=("local",), progress=False)["1"]["hit_rate@10"] == 0
    assert mteb_tasks.run(Constant(), [1], root=root, progress=False)["1"]["hit_rate@10"] > 0


def test_mtebs_own_tasks_run_by_name(monkeypatch):
    import mteb
    from mteb.mocks import MockAny2AnyRetrievalI2TTask, MockRetrievalTask

    kinds = {"A": MockAny2AnyRetrievalI2TTask, "B": MockRetrievalTask}
    monkeypatch.setattr(mteb, "get_task", lambda name: kinds[name]())
    encoder = ContentEncoder()
    tables = mteb_tasks.run(encoder, ["A", "B"], progress=False)
    assert set(tables) == {"MockAny2AnyRetrievalI2T", "MockRetrievalTask"}
    table = tables["MockAny2AnyRetrievalI2T"]
    assert table["main_score"] == "ndcg_at_10"
    assert 0 <= table["mteb"]["test"][0]["ndcg_at_10"] <= 1
    assert {modality for modality, _ in encoder.seen} == {"image", "text"}

    class Gone(MockRetrievalTask):
        def load_data(self, **kwargs):
            raise FileNotFoundError("hub")

    monkeypatch.setattr(mteb, "get_task", lambda name: Gone())
    with pytest.raises(DownloadError, match=r"MockRetrievalTask .*hub"):
        mteb_tasks.run(encoder, ["B"], progress=False)


def test_arguments_are_checked(root):
    with pytest.raises(InputError, match="root is missing"):
        mteb_tasks.run(ContentEncoder(), [0])
    with pytest.raises(InputError, match="'NoSuchTask' is no task of the folder"):
        mteb_tasks.run(ContentEncoder(), ["NoSuchTask"], root=root)
    with pytest.raises(InputError, match="'5' is no task of the folder"):
        mteb_tasks.run(ContentEncoder(), [5], root=root)
    with pytest.raises(InputError, match="tasks is empty"):
        mteb_tasks.run(ContentEncoder(), [], root=root)
    with pytest.raises(InputError, match="pools must be"):
        mteb_tasks.run(ContentEncoder(), root=root, pools=("wide",))
    with pytest.raises(InputError, match="instruction must be"):
        mteb_tasks.run(ContentEncoder(), root=root, instruction="all")
    with pytest.raises(InputError, match="k must be"):
        mteb_tasks.tasks(root, ks=(0,))
    with pytest.raises(InputError, match="tasks must be some of"):
        mteb_tasks.tasks(root, chosen=[5])
    with pytest.raises(InputError, match="asks for audio"):
        mteb_tasks.run(ContentEncoder(), ["UrbanSound8KT2ARetrieval"])


def test_a_pool_of_another_modality_is_refused(tmp_path):
    root = random_tasks(tmp_path / "odd", queries=2, candidates=3)
    path = pool_path(root, "tiny", 1, "test")
    pool = read_pool(path)
    Image.new("RGB", (4, 4)).save(root / "mbeir_images/x.png")
    write_pool(path, [*pool, type(pool[0])("9:999999", None, "mbeir_images/x.png", "image")])
    with pytest.raises(DataError, match="9:999999 of task 1's pool is image, expected text"):
        mteb_tasks.run(ContentEncoder(), [1], root=root, progress=False)


def test_without_mteb_the_remedy_is_named(monkeypatch, root):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(DependencyError, match=r"pip install 'puma-retrieval\[mteb\]'"):
        mteb_tasks.run(ContentEncoder(), root=root)
    with pytest.raises(DependencyError):
        MtebEncoder(ContentEncoder())


def test_the_wrapper_takes_what_lacks_one_side_and_refuses_what_lacks_both():
    class Meta:
        name, prompt = "T", "Find it."

    encoder = ContentEncoder()
    model = MtebEncoder(encoder)
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    batches = [{"text": ["a", ""], "image": [None, image]}, {"text": ["b"]}]
    vectors = model.encode(batches, task_metadata=Meta, prompt_type="query")
    expected = encoder.encode([Item("a"), Item(image=image), Item("b")], instruction="Find it.")
    np.testing.assert_array_equal(vectors, expected)
    assert model.encode([], task_metadata=Meta).shape == (0, 16)
    with pytest.raises(InputError, match="mteb task T: an Item needs text or an image"):
        model.encode([{"text": [""], "image": [None]}], task_metadata=Meta)
    with pytest.raises(InputError, match="asks for audio"):
        model.encode([{"audio": [0]}], task_metadata=Meta)


def test_instructions_are_for_queries_and_ours_come_first():
    class Meta:
        name, prompt = "T", {"query": " Find it. ", "document": "A thing."}

    model = MtebEncoder(ContentEncoder())
    assert model.instruction(Meta, "query") == "Find it."
    assert model.instruction(Meta, "document") is None
    assert model.instruction(Meta) == "Find it."  # tasks without sides
    assert MtebEncoder(ContentEncoder(), instructions={"T": "Mine."}).instruction(Meta, "query") == "Mine."
    assert MtebEncoder(ContentEncoder(), instructions={"T": ""}).instruction(Meta, "query") is None


def test_similarities_are_rounded_cosines():
    model = MtebEncoder(ContentEncoder())
    rows = ContentEncoder().encode([Item("a"), Item("b")])
    scores = model.similarity(rows, rows).numpy()
    np.testing.assert_allclose(scores, rows.astype(np.float64) @ rows.T.astype(np.float64), atol=5e-7)
    np.testing.assert_array_equal(np.round(scores, 6), scores)
    np.testing.assert_array_equal(model.similarity_pairwise(rows, rows).numpy(), [1.0, 1.0])
    assert model.similarity(rows[0], rows).shape == (1, 2)
