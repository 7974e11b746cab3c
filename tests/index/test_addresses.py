"""What an index's address means: folders, engines elsewhere, and what is wrong with an address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puma.errors import InputError
from puma.index import Index, addresses


@pytest.fixture
def away(monkeypatch):
    """A scheme whose engine is the folder engine in a folder that the address names after the host."""
    monkeypatch.setitem(addresses.ENGINES, "away", "support.away_engine")


@pytest.mark.parametrize("text", ["my.index", "a:b", "/tmp/x:/y", "a:/b", Path("folder/my.index")])
def test_a_folder_has_no_scheme(text):
    assert addresses.scheme_of(text) is None


def test_an_unknown_scheme_is_refused_with_those_there_are(away):
    with pytest.raises(InputError, match=r"no engine for ftp://; give a folder, or one of .*away://"):
        Index("ftp://host/name")


def test_an_address_that_went_through_a_path_is_refused(away):
    with pytest.raises(InputError, match="a slash is missing"):
        Index(Path("away://host/name"))


@pytest.mark.parametrize(
    ("address", "name"), [("folder/my.index", "my"), ("away://host:1/my", "my"), ("away://bucket/deep/my.index/", "my")]
)
def test_the_name_an_index_is_served_under(away, address, name):
    assert addresses.name_of(address) == name


def test_another_engine_gets_the_whole_address(away, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = Index("away://host/my", dim=2)
    index.add(["a", "b"], np.eye(2), ["text", "image"])
    assert index.path is None
    assert index.address == "away://host/my"
    assert [hit.id for hit in Index("away://host/my", create=False).search([0.0, 1.0], 1)[0]] == ["b"]
    with pytest.raises(InputError, match="away://host/other: no index there"):
        Index("away://host/other", create=False)
