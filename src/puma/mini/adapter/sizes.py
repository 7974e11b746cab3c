"""Size of an adapter by module, and the error of its quantisation: sums over tensors, as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """One tensor as it was written: ``moved`` is the norm of its difference from the base, ``lost`` that of what did
    not come back."""

    name: str
    kind: str
    numbers: int
    size: int
    lost: float
    moved: float


@dataclass(frozen=True)
class ModuleSize:
    """Size and error of one module of the model in the file.

    Args:
        name: the module, as ``language_model.layers.mlp``.
        kinds: how its tensors are written, see :mod:`puma.mini.adapter.coding`.
        numbers: that its tensors hold.
        size: bytes.
        error: norm of what was lost over the norm of the difference from the base.
    """

    name: str
    kinds: str
    numbers: int
    size: int
    error: float


def sizes_by_module(tensors: Iterable[Tensor], total: int) -> tuple[ModuleSize, ...]:
    """Sizes by module, largest first; what ``total`` bytes hold besides tensors is ``header``."""
    parts: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        parts.setdefault(part_of(tensor.name), []).append(tensor)
    modules = []
    for name, inside in parts.items():
        lost, moved = sum(t.lost**2 for t in inside) ** 0.5, sum(t.moved**2 for t in inside) ** 0.5
        kinds = ", ".join(sorted({t.kind for t in inside}))
        error = lost / moved if moved else 0.0
        modules.append(ModuleSize(name, kinds, sum(t.numbers for t in inside), sum(t.size for t in inside), error))
    modules.append(ModuleSize("header", "", 0, total - sum(module.size for module in modules), 0.0))
    return tuple(sorted(modules, key=lambda module: (-module.size, module.name)))


def part_of(name: str) -> str:
    """The part that a tensor belongs to: its first three names, numbers left out.

    Examples:
        >>> part_of("language_model.layers.0.mlp.up_proj.weight")
        'language_model.layers.mlp'
        >>> part_of("language_model.norm.weight")
        'language_model.norm'
    """
    return ".".join(re.sub(r"\.\d+(?=\.)", "", name).split(".")[:3]).removesuffix(".weight").removesuffix(".bias")


def table(modules: Iterable[ModuleSize]) -> str:
    """The modules of more than no bytes, a line each, and the sum."""
    modules = tuple(modules)
    lines = [f"{'part':48} {'numbers':>12} {'bytes':>12} {'error':>9}  written as"]
    lines += [f"{r.name:48} {r.numbers:12,} {r.size:12,} {r.error:9.5f}  {r.kinds}" for r in modules if r.size]
    return "\n".join(
        [*lines, f"{'in all':48} {sum(r.numbers for r in modules):12,} {sum(r.size for r in modules):12,}"]
    )
