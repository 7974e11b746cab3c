"""LanceDB is imported without its REST client's classes, which are still there for whoever reads them."""

import os
import subprocess
import sys
import textwrap

import pytest

from puma.index.lancedb_import import REST_CLIENT, run_init_on_first_use


def run(code: str, *folders: object) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, folders), *(p for p in sys.path if p)])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_index_is_used_without_the_rest_client_and_its_classes_still_work(tmp_path):
    run(f"""
        import sys
        import numpy as np
        from puma.index import Index
        index = Index({str(tmp_path / "i")!r}, dim=4)
        index.add(["a"], np.eye(4, dtype=np.float32)[:1], ["text"])
        assert [hit.id for hit in index.search(np.eye(4, dtype=np.float32)[:1], 1)[0]] == ["a"]
        client = "{REST_CLIENT}"
        assert client in sys.modules
        assert not [name for name in sys.modules if name.startswith(client + ".api.")]

        from {REST_CLIENT} import TableApi
        import {REST_CLIENT}
        from {REST_CLIENT}.api.table_api import TableApi as same
        assert TableApi is same is {REST_CLIENT}.TableApi
        assert {REST_CLIENT}.__version__
    """)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "slow_to_start"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import os\nfrom slow_to_start.part import VALUE\n__version__ = '3'\nruns = int(os.environ['RUNS']) + 1\n"
        "os.environ['RUNS'] = str(runs)\nif os.environ.get('FAULT'):\n    raise OSError('no')\nfinished = True\n"
    )
    (folder / "part.py").write_text("VALUE = 7\n")
    return tmp_path


START = """
        import os, sys
        from puma.index.lancedb_import import run_init_on_first_use
        os.environ["RUNS"] = "0"
        run_init_on_first_use("slow_to_start")
"""


def test_the_init_runs_once_when_a_name_is_first_read(package):
    run(
        START
        + """
        from slow_to_start.part import VALUE
        import slow_to_start
        assert slow_to_start.part.VALUE == 7 and not hasattr(slow_to_start, "__wrapped__")
        assert os.environ["RUNS"] == "0"
        assert slow_to_start.runs == 1 and slow_to_start.VALUE == 7 and slow_to_start.__version__ == "3"
        try:
            slow_to_start.nothing
        except AttributeError as error:
            assert "no attribute 'nothing'" in str(error)
        else:
            raise AssertionError
        run_init_on_first_use("slow_to_start")
        assert slow_to_start.runs == 1 and os.environ["RUNS"] == "1"
        """,
        package,
    )


def test_threads_wait_for_the_init(package):
    run(
        START
        + """
        from concurrent.futures import ThreadPoolExecutor
        import slow_to_start
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: slow_to_start.runs, range(64))) == {1}
        """,
        package,
    )


def test_a_failed_init_is_run_again(package):
    run(
        START
        + """
        import slow_to_start
        os.environ["FAULT"] = "yes"
        for _ in range(2):
            try:
                slow_to_start.absent
            except OSError:
                pass
            else:
                raise AssertionError
        del os.environ["FAULT"]
        assert slow_to_start.finished and slow_to_start.runs == 3
        """,
        package,
    )


def test_a_package_that_is_not_installed_is_left_alone():
    run_init_on_first_use("surely_not_installed_anywhere")
    assert "surely_not_installed_anywhere" not in sys.modules
