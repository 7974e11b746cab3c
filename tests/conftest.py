"""Tiny bases for every test, and the tests' helpers on the path."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support import families, tiny
from support.engines import ENGINES, S3_ENVIRONMENT, placed, running_milvus, running_s3
from support.shared import built_once

# Children that tests start find the helpers too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])

HEAVY = (
    "cli",
    "evaluation/mteb/test_encoder.py",
    "evaluation/probing/test_probing.py",
    "evaluation/test_mbeir.py",
    "evaluation/test_resumable.py",
    "evaluation/test_scoring.py",
    "index/exact/test_rescoring.py",
    "index/exact/test_resume.py",
    "index/exact/test_streamed.py",
    "index/test_filters.py",
    "index/test_index.py",
    "index/test_companions.py",
    "index/test_maintenance.py",
    "index/test_processes.py",
    "items/test_fuzz_images.py",
    "losses/test_gathering.py",
    "losses/test_gradcache.py",
    "mini/base/test_vision.py",
    "mini/fetch/test_packages.py",
    "mini/openpics/test_build.py",
    "mini/openpics/test_raster.py",
    "mini/test_quickstart.py",
    "pruning/test_layers.py",
    "pruning/test_loading.py",
    "retriever/onnx/test_export.py",
    "retriever/onnx/test_light.py",
    "retriever/test_adapters.py",
    "road",
    "search/ingest/test_documents.py",
    "search/ingest/test_kills.py",
    "search/ingest/test_tables.py",
    "search/reranking/test_late_interaction.py",
    "serve/test_any_json.py",
    "serve/test_api_docs.py",
    "serve/test_batching.py",
    "serve/test_page.py",
    "serve/test_page_states.py",
    "serve/test_schemathesis.py",
    "test_docs.py",
    "test_gpu_kit.py",
    "training/finetune/test_processes.py",
    "training/finetune/test_run.py",
    "training/recipes/test_costs.py",
    "training/recipes/test_recipe.py",
    "training/teacher/test_store.py",
    "training/test_stage.py",
    "training/test_stage_runs.py",
    "training/test_trainable.py",
    "training/test_two_stages.py",
    "training/test_unreadable.py",
    "training/test_validation.py",
    "training/test_workers.py",
)
"""Files and folders whose tests start processes, a browser or training runs: ``make test-fast`` leaves them out."""


_HEAVY = {Path(__file__).parent / name for name in HEAVY}
assert all(path.exists() for path in _HEAVY), "HEAVY in tests/conftest.py names what is not there"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m "... not heavy"`` heavy files are not even imported: that takes longer than the other tests run."""
    return True if collection_path in _HEAVY and "not heavy" in config.getoption("markexpr") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is heavy."""
    for item in items:
        if _HEAVY.intersection([item.path, *item.path.parents]):
            item.add_marker(pytest.mark.heavy)


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


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    with running_milvus(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server():
    with running_s3() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in (S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint}).items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(params=ENGINES)
def where(request, tmp_path):
    """Makes addresses of an engine: a test that takes this runs on each of them."""
    return placed(request, request.param, tmp_path)
