"""What the helpers themselves promise: a shared folder is built once, and anew after a build that failed."""

import pytest

from support.shared import built_once


class Factory:
    """Stands for pytest's: only its base folder counts."""

    def __init__(self, base):
        base.mkdir(parents=True)
        self.base = base

    def getbasetemp(self):
        return self.base


def test_workers_share_what_one_of_them_built(tmp_path):
    workers = [Factory(tmp_path / "run" / f"popen-gw{n}") for n in range(2)]
    built = []

    def build(folder):
        folder.mkdir()
        built.append(folder)

    assert {built_once(worker, "base", build) for worker in workers} == {tmp_path / "run" / "shared" / "base"}
    assert len(built) == 1
    alone = Factory(tmp_path / "other")
    assert built_once(alone, "base", build) == tmp_path / "other" / "shared" / "base"
    assert len(built) == 2


def test_a_build_that_failed_is_begun_anew(tmp_path):
    factory = Factory(tmp_path / "run")

    def fail(folder):
        folder.mkdir()
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        built_once(factory, "base", fail)
    folder = built_once(factory, "base", lambda folder: folder.mkdir())
    assert list(folder.iterdir()) == []
