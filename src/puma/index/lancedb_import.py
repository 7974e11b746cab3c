"""Import of LanceDB without the classes of its REST client, which no index here uses.

LanceDB imports the package ``lance_namespace_urllib3_client`` for a few data classes. The ``__init__`` of that package
also imports all of its ``api`` modules, where pydantic builds a validator for every request of the REST service. These
take 1.4 of the 3.2 seconds of ``import lancedb`` on an old processor. So the ``__init__`` is run when a name of the
package is first read, if ever. The submodules that LanceDB itself imports are found without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from typing import Any

from puma.errors import DependencyError

REST_CLIENT = "lance_namespace_urllib3_client"


def import_lancedb() -> Any:
    """The package ``lancedb``.

    Raises:
        DependencyError: LanceDB is not installed.
    """
    # Read when LanceDB is first imported: it prints warnings about its own internals to the user's screen.
    os.environ.setdefault("LANCEDB_LOG", "error")
    if "lancedb" not in sys.modules:
        run_init_on_first_use(REST_CLIENT)
    try:
        return importlib.import_module("lancedb")
    except ImportError:
        raise DependencyError("the embedded index needs LanceDB: pip install lancedb") from None


def run_init_on_first_use(package: str) -> None:
    """Enter a package into ``sys.modules`` without running its ``__init__``, which runs when one of its names is first
    read. Nothing happens if the package is imported already or not installed."""
    if package in sys.modules or (spec := importlib.util.find_spec(package)) is None or spec.loader is None:
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    lock, started = threading.RLock(), False

    def read(name: str) -> Any:
        nonlocal started
        # Libraries look at every module for attributes such as __wrapped__; these do not need the __init__.
        if not name.startswith("__") or name in ("__all__", "__version__"):
            with lock:
                if not started:
                    started = True  # the __init__ reads names of its own package while it runs
                    try:
                        loader.exec_module(module)
                    except BaseException:
                        started = False
                        raise
                if name in vars(module):
                    return vars(module)[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    vars(module)["__getattr__"] = read
    sys.modules[package] = module
