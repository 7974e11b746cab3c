"""The house: which way imports run, no circle inside a folder, few arrows, small files, and what stays light."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import puma
from support import layers

ROOT = Path(puma.__file__).parent
MOST_ENTRIES, MOST_ARROWS, MOST_LINES = 16, 90, 300
LONG_FILES: dict[str, str] = {}
"""Files over MOST_LINES, each with its reason; three at most."""
LIGHT = (
    "puma",
    "puma.items",
    "puma.evaluation.metrics",
    "puma.evaluation.runs",
    "puma.index",
    "puma.data.mbeir",
    "puma.evaluation.compare",
    "puma.training.mining",
    "puma.items.thumbnails",
    "puma.search.ingest",
    "puma.search",
    "puma.training",
    "puma.serve",
    "puma.cli",
)


def test_imports_run_from_higher_layers_to_lower_ones():
    assert layers.against_the_layers(layers.imports(ROOT)) == []


def test_no_folder_holds_a_circle_of_imports():
    assert layers.circles(layers.imports(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("items/item.py", "from puma.index import Index", "puma.items.item imports puma.index"),
        ("losses/mac.py", "def f():\n    import puma.training.stage", "puma.losses.mac imports puma.training.stage"),
        ("storage/folders.py", "from puma.cli import app", "puma.storage.folders imports puma.cli.app"),
    ],
)
def test_a_planted_import_against_the_layers_is_named(tmp_path, file, line, found):
    planted = _with(tmp_path, file, line)
    assert layers.against_the_layers(layers.imports(planted)) == [found]


def test_a_planted_circle_is_named(tmp_path):
    planted = _with(tmp_path, "storage/folders.py", "from puma.storage.shards import Shards")
    faults = layers.circles(layers.imports(planted))
    assert "puma.storage.folders imports puma.storage.shards" in faults
    assert all(fault.startswith("puma.storage.") for fault in faults)


def test_a_new_room_must_find_its_layer(tmp_path):
    planted = _with(tmp_path, "attic/things.py", "")
    assert layers.against_the_layers(layers.imports(planted)) == ["attic: in no layer"]


def test_contributing_tells_the_same_layers():
    lines = (ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[2] for line in lines if re.match(r"\| \d+ \|", line)]
    assert [set(re.findall(r"`(\w+)`", cell)) for cell in cells] == list(layers.LAYERS)


def _with(folder, file, line):
    """A copy of the package's sources with a line added to a file."""
    copy = shutil.copytree(ROOT, folder / "puma", ignore=lambda _, names: [n for n in names if not _is_source(n)])
    place = copy / file
    place.parent.mkdir(exist_ok=True)
    before = place.read_text(encoding="utf-8") if place.is_file() else ""
    place.write_text(f"{before}\n\n{line}\n", encoding="utf-8")
    return copy


def _is_source(name):
    return name.endswith(".py") or ("." not in name and not name.startswith("__"))


def test_the_top_level_shows_the_road():
    entries = [path.name for path in ROOT.iterdir() if path.name not in ("__pycache__", "_recipes")]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_rooms_know_few_others():
    assert len(layers.arrows(layers.imports(ROOT))) <= MOST_ARROWS


def test_files_are_small():
    long = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long == LONG_FILES.keys()
    assert len(LONG_FILES) <= 3


@pytest.mark.parametrize("module", LIGHT)
def test_light_parts_leave_torch_unloaded(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    assert puma.__all__
    for name in puma.__all__:
        assert getattr(puma, name) is not None


def test_serving_loads_nothing_of_training():
    code = (
        "import sys, puma.serve; names = ('puma.losses', 'puma.training', 'datasets', 'sentence_transformers', "
        "'peft', 'accelerate'); sys.exit(any(name in sys.modules for name in names))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
