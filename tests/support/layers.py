"""Which module of a package imports which, and what of that runs against the layers or in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    {"errors"},
    {"storage"},
    {"items"},
    {"data", "index", "losses"},
    {"pruning"},
    {"retriever"},
    {"evaluation"},
    {"search"},
    {"training"},
    {"mini", "serve"},
    {"cli"},
)
"""The rooms of the package, lowest first: a room imports only from rooms of lower layers."""

Imports = dict[str, set[str]]


def imports(root: Path) -> Imports:
    """Every module of the package at ``root`` with those of the package that it imports, inside functions too."""
    package = root.name
    modules = {
        ".".join([package, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    return {
        name: {there for there in _named(path, set(modules)) if there not in (name, package)}
        for name, path in modules.items()
    }


def _named(path: Path, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else str(node.module)


def room(module: str) -> str:
    """The top-level entry that a module belongs to."""
    return [*module.split("."), ""][1]


def arrows(found: Imports) -> set[tuple[str, str]]:
    """Distinct imports between top-level rooms."""
    pairs = ((room(here), room(there)) for here, names in found.items() for there in names)
    return {(here, there) for here, there in pairs if here and there and here != there}


def against_the_layers(found: Imports) -> list[str]:
    """``a imports b`` for every import of a room that is not of a lower layer, and rooms that no layer knows."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    faults = [f"{name}: in no layer" for name in sorted({room(m) for m in found} - level.keys() - {"", "__main__"})]
    for here, names in sorted(found.items()):
        for there in sorted(names):
            a, b = room(here), room(there)
            if a != b and a in level and b in level and level[b] >= level[a]:
                faults.append(f"{here} imports {there}")
    return faults


def circles(found: Imports) -> list[str]:
    """``a imports b`` for every import that is part of a circle between the entries of one folder."""
    faults = []
    for folder in sorted({name.rsplit(".", 1)[0] for name in found if "." in name}):
        edges: dict[str, dict[str, str]] = defaultdict(dict)
        for here, names in found.items():
            for there in names:
                if here.startswith(folder + ".") and (there == folder or there.startswith(folder + ".")):
                    a, b = (name[len(folder) + 1 :].split(".")[0] for name in (here, there))
                    if a != b:
                        edges[a][b] = f"{here} imports {there}"
        for a, following in edges.items():
            faults += [text for b, text in following.items() if a in _reachable(edges, b)]
    return sorted(faults)


def _reachable(edges: dict[str, dict[str, str]], start: str) -> set[str]:
    seen, todo = {start}, [start]
    while todo:
        for name in edges.get(todo.pop(), {}):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen
