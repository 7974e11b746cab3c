"""A recipe's entries checked, each fault with where its value stands, and turned into the values of a ``Recipe``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from puma.errors import ConfigError, InputError
from puma.pruning.loading import ATTENTION
from puma.training.config import LENGTHS, TrainConfig
from puma.training.config_rules import BASE_PRECISIONS
from puma.training.recipes.costs import Workload
from puma.training.recipes.files import SECTIONS, Entries
from puma.training.rounds import Rounds

MINI = "mini"
"""As ``base``: the assembled mini base, trained by :mod:`puma.mini.training`; without ``data`` on OpenPics."""
STAGES = ("distil", "retrieve")
ROUNDS_KEYS = tuple(f.name for f in fields(Rounds) if f.name != "config")
"""What the section of the rounds has beside a stage's settings."""
EXTRA_PAIRS = ("icons", "wordnet", "keywords", "classes")
"""Training pairs that the mini base may have beside its data's."""
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "like": ((str,), "give the name of a recipe beside this one"),
    "base": ((str,), "give a hub name, a model folder, or mini"),
    "layers": ((int, type(None)), "give a whole number of at least 1, or null for all"),
    "keep_last": ((bool,), "give true or false"),
    "prompt": ((str,), "give chat, open-quote or short"),
    "data": ((str, type(None)), "give a folder in M-BEIR's layout, or null"),
    "image_tokens": ((list, type(None)), "give the fewest and the most tokens of a picture, as [4, 300]"),
    "dtype": ((str,), f"give one of {BASE_PRECISIONS}"),
    "attn": ((str, type(None)), f"give one of {ATTENTION}, or null for the base's own"),
    "notes": ((str,), "give a text"),
    "image_size": ((int,), "give a whole number of pixels"),
    "tower": ((str,), "give lite0 or lite2"),
    "tower_cell": ((int,), "give 32 or 64"),
    "teacher_prompt": ((str,), "give open-quote or short"),
    "rows_per_query": ((int,), "give a whole number of at least 1"),
    "extra_pairs": ((list,), f"give a list of {', '.join(EXTRA_PAIRS)}"),
    "image_variants": ((int,), "give a whole number from 0 to 20"),
    "same_concept": ((bool,), "give true or false"),
    "published_tower": ((int, float), "give a share from 0 to 1"),
    "photo_classifier": ((bool,), "give true or false"),
}
_HOLDS: dict[str, Callable[[Any], bool]] = {
    "image_tokens": lambda value: value is None or _is_range(value),
    "dtype": lambda value: value in BASE_PRECISIONS,
    "attn": lambda value: value in (None, *ATTENTION),
    "tower": lambda value: value in ("lite0", "lite2"),
    "tower_cell": lambda value: value in (32, 64),
    "extra_pairs": lambda value: all(kind in EXTRA_PAIRS for kind in value),
    "image_variants": lambda value: 0 <= value <= 20,
    "published_tower": lambda value: 0 <= value <= 1,
}
"""What a key's value of the right type must keep to; of the others, whole numbers are at least 1."""
ONLY_MINI = (
    "image_size",
    "tower",
    "tower_cell",
    "teacher_prompt",
    "rows_per_query",
    "extra_pairs",
    "image_variants",
    "same_concept",
    "published_tower",
    "photo_classifier",
)
"""Keys that another base does not have."""


def check_entries(entries: Entries, faults: list[str]) -> dict[str, Any]:
    """The keyword arguments of :class:`puma.training.recipes.recipe.Recipe`; of use only if no fault was added to the
    list."""
    values: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, (value, where) in entries.items():
        name = key[0]
        if name in SECTIONS:
            if len(key) == 2:
                sections.setdefault(name, {})[key[1]] = value
            elif value == {}:
                sections.setdefault(name, {})
            elif len(key) > 2 or value is not None or name not in ("distil", "rounds"):
                faults.append(f"{where}: {'.'.join(key)}: give settings, as {name}: {{steps: 100}}")
        elif name == "like":
            faults.append(f"{where}: like: only a recipe's file may say it")
        elif name not in _KEYS or len(key) > 1:
            hint = " (a stage's setting? write retrieve." + name + ")" if name in _STAGE_KEYS else ""
            known = ", ".join([*_KEYS, *SECTIONS])
            faults.append(f"{where}: {'.'.join(key)}: no such key{hint}; there are {known}")
        else:
            kinds, rule = _KEYS[name]
            right = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
            right = right and _HOLDS.get(name, _at_least_one)(value)
            if list in kinds and isinstance(value, list):
                value = tuple(value)
            if not right:
                faults.append(f"{where}: {name}={value!r}: {rule}")
            values[name] = value
    if "base" not in values:
        faults.append(f"base: is missing; {_KEYS['base'][1]}")
    for name in ONLY_MINI:
        if name in values and values.get("base") != MINI:
            faults.append(f"{entries[(name,)][1]}: {name}: only the mini base has it")
    faults.extend(_prompt_faults(values, entries))
    stages = {}
    for name in STAGES:
        if name in sections:
            stages[name] = _stage(name, sections[name], entries, faults, values.get("dtype", "auto"))
    if "retrieve" not in sections and values.get("dtype") in BASE_PRECISIONS:
        stages["retrieve"] = replace(TrainConfig(), base_precision=values["dtype"])
    if "rounds" in sections:
        dtype = values.get("dtype", "auto")
        stages["rounds"] = _rounds(sections["rounds"], sections.get("retrieve", {}), entries, faults, dtype)
    workload = _workload(sections.get("workload", {}), entries, faults)
    return {**values, "workload": workload, **stages}


def _at_least_one(value: Any) -> bool:
    return type(value) is not int or value >= 1


def _is_range(value: list[Any]) -> bool:
    return len(value) == 2 and all(type(n) is int for n in value) and 1 <= value[0] <= value[1]


def _prompt_faults(values: Mapping[str, Any], entries: Entries) -> list[str]:
    from puma.retriever.prompts import PROMPTS

    faults = []
    for name, more in (("prompt", ["chat"]), ("teacher_prompt", [])):
        value = values.get(name)
        if isinstance(value, str) and value not in (*PROMPTS, *more):
            faults.append(f"{entries[(name,)][1]}: {name}={value!r}: give one of {sorted([*PROMPTS, *more])}")
    return faults


def _stage(
    name: str, values: dict[str, Any], entries: Entries, faults: list[str], dtype: Any, section: str = ""
) -> Any:
    section = section or name
    if "stage" in values:
        faults.append(f"{entries[(section, 'stage')][1]}: {section}.stage: the section's name says it; leave it out")
        values = {key: value for key, value in values.items() if key != "stage"}
    if dtype in BASE_PRECISIONS and "base_precision" not in values and dtype != "auto":
        values = {**values, "base_precision": dtype}
        entries = {**entries, (section, "base_precision"): (dtype, entries[("dtype",)][1])}
    try:
        return TrainConfig.from_dict({**values, "stage": name})
    except ConfigError as error:
        faults.extend(_locate(section, str(error), entries))
        return None


def _rounds(
    values: dict[str, Any], retrieve: dict[str, Any], entries: Entries, faults: list[str], dtype: Any
) -> Rounds | None:
    """Stage 2's settings with the rounds' own above them; their length is their own alone."""
    own = {key: value for key, value in values.items() if key not in ROUNDS_KEYS}
    if not any(own.get(key) for key in LENGTHS):
        faults.append("rounds: say how long a round is: rounds.steps, rounds.minutes or rounds.epochs")
        return None
    below = {key: value for key, value in retrieve.items() if key not in (*LENGTHS, "stage")}
    at = {("rounds", key): entries[("retrieve", key)] for key in below} | dict(entries)
    config = _stage("retrieve", {**below, **own}, at, faults, dtype, section="rounds")
    try:
        chosen = {key: values[key] for key in ROUNDS_KEYS if key in values}
        return None if config is None else Rounds(config, **chosen)
    except InputError as error:
        faults.extend(_locate("rounds", str(error), entries))
        return None


def _workload(values: dict[str, Any], entries: Entries, faults: list[str]) -> Workload:
    kinds = {f.name: str(f.type) for f in fields(Workload)}
    right: dict[str, Any] = {}
    for key, value in values.items():
        where = entries[("workload", key)][1]
        allowed = (int, float) if kinds.get(key) == "float" else (int,)
        if key not in kinds:
            faults.append(f"{where}: workload.{key}: no such key; there are {', '.join(kinds)}")
        elif (isinstance(value, allowed) and not isinstance(value, bool)) or (value is None and "None" in kinds[key]):
            right[key] = value
        else:
            faults.append(f"{where}: workload.{key}={value!r}: give a number")
    try:
        return Workload(**right)
    except ConfigError as error:
        faults.extend(_locate("workload", str(error), entries))
        return Workload()


def _locate(section: str, message: str, entries: Entries) -> list[str]:
    """The lines of a :class:`ConfigError`, each with where its key stands."""
    head, *lines = message.split("\n  ")
    located = []
    for line in lines or [head]:
        key = re.match(r"\w+", line)
        where = entries.get((section, key.group() if key else ""), (None, section))[1]
        located.append(f"{where}: {section}.{line}")
    return located


_STAGE_KEYS = frozenset(f.name for f in fields(TrainConfig))
