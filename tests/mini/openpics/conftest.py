"""Tiny sources, and one OpenPics built of them, shared by the tests here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from puma.mini.openpics import build, select
from support import openpics_sources
from support.shared import built_once


@pytest.fixture(scope="session", autouse=True)
def even_shares() -> Iterator[None]:
    """So few families need larger shares for every split to have some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "SHARES", {name: {"test": 0.3, "val": 0.3} for name in select.SHARES})
        yield


@pytest.fixture(scope="session")
def tiny_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "packages", openpics_sources.make_packages)


@pytest.fixture(scope="session")
def openpics(even_shares: None, tiny_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fetch = openpics_sources.fetcher(tiny_packages)
    home = built_once(tmp_path_factory, "openpics", lambda home: build(home, fetch=fetch))
    return build(home, fetch=fetch)  # it is there: this only finds it
