"""Every name of the package that a docstring or a document mentions exists."""

import ast
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

import puma

ROOT = Path(puma.__file__).parent
PROJECT = ROOT.parents[1]
OPTIONAL = ("puma.search.integrations.",)
"""Modules that import frameworks which need not be installed."""
DOTTED = re.compile(r"(?<![\w./-])puma(?:\.[A-Za-z_]\w*)+")
ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|exc):`~?([\w.]+)`")
PATHS = re.compile(r"(?<![\w./-])(?:src/puma|tests|benchmarks|recipes|docs)/[\w./-]*\w")
"""Paths from the project's root."""
BARE = re.compile(r"(?<![\w./-])[\w./-]*\w\.py\b")
"""Python files by a part of their path, as in ``data/mbeir.py``."""
MADE = ("benchmarks/results/gpu",)
"""Folders that a command makes."""
FILES = re.compile(r"(?:\.(?:index|json|md|svg|png|yaml|toml|work|safetensors|css|html|jsonl|csv))$")
"""Names of files, as in ``images.index``, are no names of the package."""


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of the package, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        if module.startswith(OPTIONAL):
            if (ROOT.parent / Path(*parts[:count])).with_suffix(".py").is_file():
                return True
            continue
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if found:
            held = importlib.import_module(module)
            for part in parts[count:]:
                if not hasattr(held, part) and part not in getattr(held, "__annotations__", {}):
                    return part in getattr(held, "__dataclass_fields__", {})
                held = getattr(held, part, None)
            return True
    return False


def docstrings(path: Path) -> list[str]:
    """Docstrings, those of attributes too (a string by itself)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_docstrings_name_exists(path):
    module = ".".join(["puma", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    wrong = []
    for text in docstrings(path):
        names = {name for name in DOTTED.findall(text) if not FILES.search(name)}
        for role in ROLE.findall(text):
            names.add(role if role.startswith("puma.") else f"{module}.{role}")
        wrong += sorted(name for name in names if not _known(name, module, path))
    assert not wrong


def _known(name: str, module: str, path: Path) -> bool:
    if resolves(name):
        return True
    # A method or attribute named within its class, or a nested name: looked for in the file's own text.
    last = name.removeprefix(f"{module}.").split(".")[-1]
    return (
        name.startswith(f"{module}.")
        and re.search(rf"\b(def|class) {last}\b|\b{last}\b\s*[:=]", _text(path)) is not None
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_what_documents_name_exists(path):
    if path.name in ("log.md",):  # dated: what stood then is named as it was then
        pytest.skip("a log of the past")
    text = _text(path)
    wrong = sorted({name for name in DOTTED.findall(text) if not FILES.search(name) and not resolves(name)})
    assert not wrong + _missing_paths(text)


@pytest.mark.parametrize("folder", ["src/puma", "tests", "benchmarks"])
def test_paths_in_docstrings_exist(folder):
    wrong = {}
    for path in sorted((PROJECT / folder).rglob("*.py")):
        missing = _missing_paths("\n".join(docstrings(path)), bare=False)  # they cite others' files, too
        if missing:
            wrong[path.relative_to(PROJECT).as_posix()] = missing
    assert not wrong


def test_every_entry_of_the_readmes_tree_exists():
    tree = re.search(r"```\nsrc/puma/\n(.*?)```", _text(PROJECT / "README.md"), re.S)
    assert tree
    folder, entries = PROJECT / "src/puma", []
    for line in tree[1].splitlines():
        if not line.startswith("  "):
            folder = PROJECT
        if match := re.match(r"(?:  )?(\w\S*)", line):
            entries.append(folder / match[1])
    assert [entry for entry in entries if not entry.exists()] == []
    listed = {entry.name for entry in entries if entry.parent == ROOT}
    marker = "py.typed"  # tells type checkers that the package has types; nothing to read
    assert listed == {entry.name for entry in ROOT.iterdir() if not entry.name.startswith("_")} - {marker}


def test_docstrings_say_what_is_there_and_not_what_is_elsewhere():
    """Lists of what is not in a module go stale; the tree says where things are."""
    named = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py")) if _lists_absences(path)]
    assert not named


def _lists_absences(path: Path) -> bool:
    return any(re.search(r"\bNot\s+here:", text) for text in docstrings(path))


def _missing_paths(text: str, bare: bool = True) -> list[str]:
    """Paths and Python files that a text names and that are not in the project."""
    wrong = {name for name in PATHS.findall(text) if not name.startswith(MADE) and not (PROJECT / name).exists()}
    known = ["/" + path for path in _python_files()]
    names = BARE.findall(text) if bare else ()
    wrong |= {name for name in names if not any(path.endswith("/" + name) for path in known)}
    return sorted(wrong)


@cache
def _python_files() -> list[str]:
    return [
        path.relative_to(PROJECT).as_posix()
        for folder in ("src/puma", "tests", "benchmarks")
        for path in (PROJECT / folder).rglob("*.py")
    ]


def test_a_path_that_does_not_exist_is_found():
    text = "see tests/items/test_item.py and data/mbeir.py, tests/test_attic.py, attic.py and docs/attic.md"
    assert _missing_paths(text) == ["attic.py", "docs/attic.md", "tests/test_attic.py"]


def test_a_name_that_does_not_exist_is_found():
    assert resolves("puma.losses.mac.mac_loss")
    assert not resolves("puma.losses.mac.cam_loss")
    assert not resolves("puma.attic")
