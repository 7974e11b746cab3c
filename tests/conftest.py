"""Tiny bases for every test, and the tests' helpers on the path."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support import families, tiny
from support.shared import built_once

# Children that tests start find the helpers too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base folder, read only."""
    return built_once(tmp_path_factory, "base", tiny.base_folder)


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny base folder of a family, processor included, made once; read only."""

    def base_of(family: str) -> Path:
        return built_once(tmp_path_factory, f"family-{family}", lambda folder: families.build(family, folder))

    return base_of
