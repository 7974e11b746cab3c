"""Recipe files: where they are, their YAML with the line of every value, and which file goes before which."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from puma.errors import ConfigError, InputError

SECTIONS = ("distil", "retrieve", "rounds", "workload")
"""Keys that hold keys."""
Entries = dict[tuple[str, ...], tuple[Any, str]]
"""Values by key path, each with where it stands: ``file:line``, or the option that gave it."""


def recipes_folder() -> Path:
    """Where the shipped recipes are: inside the installed package, else beside the sources."""
    package = Path(__file__).parents[2]
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """The file of a path or of a shipped recipe's name.

    Raises:
        InputError: there is none.
    """
    name = os.fspath(path)
    if Path(name).is_file():
        return Path(name)
    shipped = recipes_folder() / f"{name}.yaml"
    if re.fullmatch(r"[\w.-]+", name) and shipped.is_file():
        return shipped
    raise InputError(f"recipe {name!r}: neither a file nor a shipped recipe ({', '.join(shipped_recipes())})")


def read_entries(path: Path, faults: list[str], seen: tuple[Path, ...] = ()) -> Entries:
    """A file's entries over those of the recipe it is like; faults are added to the list.

    Raises:
        ConfigError: no YAML. InputError: the file cannot be read.
    """
    if path.resolve() in seen:
        faults.append(f"{path.name}: like: goes round in a circle")
        return {}
    here = _parse(path, faults)
    parent, where = here.pop(("like",), (None, ""))
    if parent is None:
        return here
    if not isinstance(parent, str):
        faults.append(f"{where}: like={parent!r}: give the name of a recipe beside this one")
        return here
    beside = path.parent / f"{parent}.yaml"
    try:
        entries = read_entries(beside if beside.is_file() else find_recipe(parent), faults, (*seen, path.resolve()))
    except ConfigError:
        raise
    except InputError as error:
        faults.append(f"{where}: like: {error}")
        return here
    return merge(entries, here)


def merge(below: Entries, above: Entries) -> Entries:
    """The entries of both, those above first: a null section takes the whole one below away, a setting brings it
    back. A stage's steps given above without minutes are its whole length: minutes below would end it earlier. Nor do
    minutes given above keep the least steps from below."""
    entries = dict(below)
    for key, value in above.items():
        if key[1:] == ("steps",) and value[0] and (key[0], "minutes") not in above:
            entries.pop((key[0], "minutes"), None)
        if key[1:] in (("steps",), ("minutes",)) and (key[0], "least_steps") not in above:
            entries.pop((key[0], "least_steps"), None)
        if len(key) == 1:
            entries = {k: v for k, v in entries.items() if k[0] != key[0]}
        else:
            entries.pop(key[:1], None)
        entries[key] = value
    return entries


def _parse(path: Path, faults: list[str]) -> Entries:
    import yaml

    try:
        loader = _loader()(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"recipe {path.name}{line}: no YAML: {getattr(error, 'problem', error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: cannot be read ({error})") from None
    entries: Entries = {}
    if not isinstance(root, yaml.MappingNode):
        faults.append(f"{path.name}: give keys and values, as base: Qwen/Qwen2-VL-2B-Instruct")
        return entries

    def walk(node: Any, above: tuple[str, ...]) -> None:
        for name, value in node.value:
            key, where = (*above, str(name.value)), f"{path.name}:{name.start_mark.line + 1}"
            if key in entries or any(k[: len(key)] == key for k in entries):
                faults.append(f"{where}: {'.'.join(key)}: is there twice")
            elif not above and key[0] in SECTIONS and isinstance(value, yaml.MappingNode):
                walk(value, key)
                if not value.value:
                    entries[key] = ({}, where)
            else:
                try:
                    entries[key] = (loader.construct_object(value, deep=True), where)
                except yaml.YAMLError as error:
                    faults.append(f"{where}: {'.'.join(key)}: {getattr(error, 'problem', error)}")

    walk(root, ())
    return entries


def _loader() -> Any:
    """YAML 1.1 as PyYAML reads it, but 1e-4 is a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    number = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
