"""``--engine``, ``--address``, ``--workers``: what goes together, and what is refused before anything is loaded."""

from pathlib import Path

import numpy as np
import pytest

from puma.cli.commands import _engine
from puma.cli.commands._engine import Engine
from puma.errors import DependencyError, InputError
from puma.items import Item, remote
from support.encoders import ToyEncoder
from support.inline_ray import InlineRay


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("spark",), "engine must be one of local, ray, got 'spark'"),
        (("local", "h:1"), "--address h:1: goes with --engine ray"),
        (("local", None, 2), "--workers 2: goes with --engine ray"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Engine(*given)


def test_a_model_folder_is_named_in_full_for_workers_in_other_folders(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUMA_MODEL", raising=False)
    seen = []
    monkeypatch.setattr(_engine, "load_encoder", lambda model, *_, **__: seen.append(model) or ToyEncoder())
    monkeypatch.setattr(remote, "connected", lambda *given: InlineRay())
    with Engine("ray", workers=2).encoder(Path("model")) as encoder:
        found = encoder.encode([Item(text="a red fox")])
    assert seen == [tmp_path / "model"] * 2
    np.testing.assert_array_equal(found, ToyEncoder().encode([Item(text="a red fox")]))


def test_a_cluster_without_room_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(remote, "connected", lambda *given: InlineRay(resources={"CPU": 2.0}))
    monkeypatch.setattr(_engine, "load_encoder", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(DependencyError, match="--workers 1"), Engine("ray", workers=2).encoder(None):
        pass
