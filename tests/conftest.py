"""Threads and quiet, once; nothing else is shared but tiny.py."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).parent))

from collections.abc import Callable

import pytest

from support import families, tiny

# Children that tests start find the helpers too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base folder, read only."""
    return tiny.base_folder(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def family_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny base folder of a family, processor included, made once; read only."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def base_of(family: str) -> Path:
        if family not in made:
            made[family] = families.build(family, root / family)
        return made[family]

    return base_of
