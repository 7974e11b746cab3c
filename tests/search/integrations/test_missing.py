"""Without the frameworks: importing an adapter says what to install, and nothing else needs them."""

import subprocess
import sys

CODE = """
import importlib, sys
sys.modules["langchain_core"] = sys.modules["llama_index"] = None  # as if they were not installed
import puma.search.integrations
from puma.errors import DependencyError
for module, package in (("langchain", "langchain-core"), ("llama_index", "llama-index-core")):
    try:
        importlib.import_module(f"puma.search.integrations.{module}")
    except DependencyError as error:
        assert package in str(error), error
        assert f"pip install 'puma-retrieval[{module.replace('_', '-')}]'" in str(error), error
        assert "\\n" not in str(error)
    else:
        raise AssertionError(module)
assert "torch" not in sys.modules
"""


def test_each_adapter_names_what_to_install():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
