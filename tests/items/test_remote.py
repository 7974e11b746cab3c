"""Embedding in actors: the plan of the pool, what is drawn ahead, the order of results, actors that die."""

import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from puma.errors import DependencyError, ImageError, InputError, ModelError
from puma.items import Item, remote
from puma.items.encoder import embed_batches
from puma.items.opening import FileBytes
from puma.items.ray_cluster import Pool, check_answers, connected, plan_pool
from puma.items.remote import AHEAD, RayEncoder
from support import plain
from support.encoders import ToyEncoder
from support.inline_ray import InlineRay


@pytest.mark.parametrize(
    ("free", "workers", "pool"),
    [
        ({"CPU": 2.0}, None, Pool(1, 1, 0)),
        ({"CPU": 8.0}, None, Pool(7, 1, 0)),
        ({"CPU": 8.0}, 3, Pool(3, 1, 0)),
        ({"CPU": 64.0, "GPU": 8.0}, None, Pool(8, 1, 1)),
        ({"CPU": 4.0, "GPU": 8.0}, None, Pool(3, 1, 1)),
    ],
)
def test_a_pool_takes_what_is_free_but_one_cpu(free, workers, pool):
    assert plan_pool(free, workers) == pool


@pytest.mark.parametrize("free", [{}, {"CPU": 1.0}, {"CPU": 0.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}])
def test_a_cluster_without_room_is_refused(free):
    with pytest.raises(DependencyError, match=r"lacks room.*ray status"):
        plan_pool(free)


def test_a_pool_that_would_take_every_cpu_is_refused_with_what_would_do():
    with pytest.raises(DependencyError, match="--workers 3"):
        plan_pool({"CPU": 4.0}, 4)
    with pytest.raises(DependencyError, match="--workers 2"):
        plan_pool({"CPU": 40.0, "GPU": 2.0}, 3)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_workers_must_be_a_positive_integer(workers):
    with pytest.raises(InputError, match="workers"):
        plan_pool({"CPU": 8.0}, workers)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "head:0", "head:99999", "ray://head"])
def test_an_address_must_be_a_host_and_a_port(address):
    with pytest.raises(InputError, match="host:port"):
        check_answers(address)


def test_an_address_where_nothing_answers_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DependencyError, match=f"127.0.0.1:{port}: nothing answers"):
        check_answers(f"127.0.0.1:{port}")


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("puma.errors.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"puma-retrieval\[ray\]"):
        connected(None)


def test_an_image_file_that_was_read_can_be_sent():
    sent = pickle.loads(pickle.dumps(FileBytes(b"bytes", "/a/b.png")))
    assert (bytes(sent), sent.path) == (b"bytes", "/a/b.png")


@pytest.fixture
def cluster(monkeypatch):
    """A way to get an encoder whose actors run here."""

    def make(load=ToyEncoder, workers=3, **faults):
        ray = InlineRay(**faults)
        monkeypatch.setattr(remote, "connected", lambda *given: ray)
        return RayEncoder(load, workers=workers), ray

    return make


def _batches(count, size=3):
    return [([Item(text=f"fox {number} {place}") for place in range(size)], None) for number in range(count)]


@pytest.mark.parametrize("seed", range(8))
def test_results_are_those_of_the_loop_in_its_order_whoever_dies(cluster, seed):
    batches = [*_batches(10), ([], None), *_batches(9)]
    encoder, ray = cluster(seed=seed, deaths=seed % 3)
    with encoder:
        found = list(embed_batches(encoder, batches))
    expected = list(embed_batches(ToyEncoder(), batches))
    assert len(found) == len(expected) == 20
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
        assert got[2] == want[2]
    assert encoder.deaths == seed % 3
    assert ray.made == 3 + encoder.deaths


def test_no_more_is_drawn_than_the_actors_have_room_for(cluster):
    drawn = []
    encoder, _ = cluster(workers=2)

    def source():
        for number, batch in enumerate(_batches(50)):
            drawn.append(number)
            yield batch

    with encoder:
        for taken, _ in enumerate(encoder.embed_batches(source()), 1):
            assert len(drawn) <= taken - 1 + 2 * AHEAD


def test_a_batch_that_ends_every_actor_is_named(cluster):
    encoder, _ = cluster()
    with encoder, pytest.raises(DependencyError, match="batch 4 of 1 items ended 3 Ray workers"):
        list(encoder.embed_batches([*_batches(4), ([Item(text="poison")], None)]))


def test_what_cannot_be_read_keeps_its_place(cluster, tmp_path):
    plain.image(1).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    items = [Item(text="a"), Item(image=tmp_path / "gone.png"), Item(image=tmp_path / "bad.png")]
    items += [Item(image=tmp_path / "good.png"), Item(text="red")]
    encoder, _ = cluster()
    with encoder:
        (found,) = encoder.embed_batches([(items, None)])
        with pytest.raises(ImageError, match="gone"):
            encoder.encode(items)
    (expected,) = embed_batches(ToyEncoder(), [(items, None)])
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1].tolist() == expected[1].tolist() == [True, False, False, True, True]
    assert [place for place, _ in found[2]] == [1, 2]


def _broken():
    raise ModelError("no such model")


def test_a_model_that_cannot_be_loaded_is_told_as_it_is(cluster):
    with pytest.raises(ModelError, match="no such model"):
        cluster(_broken)


def test_ray_is_loaded_by_no_import():
    code = "import sys, puma.cli.app, puma.items.remote, puma.index.exact.sharded, puma.evaluation.mbeir\n"
    code += "import puma.cli.commands.embed, puma.cli.commands.evaluate, puma.cli.commands.index\n"
    code += "assert 'puma.items.ray_cluster' in sys.modules and 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
