"""What holds for all tests and doctests: threads, workers, and the modules that pytest leaves alone."""

import gc
import os
import sys

# Before torch or numpy is imported. One thread each: the models are tiny, and pytest-xdist has a worker for every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

MOST_WORKERS = 8

# They import frameworks that need not be installed; tests/search/integrations tests them where they are.
collect_ignore = ["src/puma/search/integrations/langchain.py", "src/puma/search/integrations/llama_index.py"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means: the cores this process may use, not those of the whole machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


class _Frozen:
    """Takes what imported libraries leave in memory out of the garbage collector's sight.

    accelerate collects at the end of every training run, 0.4 s each time over all that torch and transformers hold.
    """

    def __init__(self) -> None:
        self.modules = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if len(sys.modules) > self.modules + 100:
            gc.collect()
            gc.freeze()
            self.modules = len(sys.modules)

    def pytest_unconfigure(self) -> None:
        gc.unfreeze()  # or bindings report leaks at the exit


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Frozen())
