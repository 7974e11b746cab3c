"""Which way imports run (docs/design of the house), and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import puma

ROOT = Path(puma.__file__).parent
RANKS = [
    {"errors", "picture_checks", "data.skips"},
    {"folders", "items", "row_files", "storage", "thumbnails"},
    {"prompts", "pooling", "evaluation.metrics", "evaluation.runs", "index"},
    {
        "data.layout",
        "data.lines",
        "data.records",
        "data.writing",
        "data.plan",
        "data.findings",
        "data.validation",
        "data.mbeir",
    },
    {"pruning", "losses"},
    {
        "interchange",
        "picture_tokens",
        "settings",
        "encoding",
        "retriever",
        "model",
        "teacher",
        "dual_depth",
        "feature_shards",
        "identity",
        "data",
    },
    {
        "architectures",
        "checkpoints",
        "replicas",
        "run_folder",
        "trainable",
        "training",
        "twostage",
        "validation_runs",
        "evaluation",
        "search",
        "ingest",
        "embedding",
        "probing",
        "mining",
        "reranking",
    },
    {"costs", "step_work", "recipe_files", "recipes", "serve", "integrations", "cluster", "mini"},
    {"commands"},
    {"cli", "__main__"},
]
LIGHT = (
    "puma",
    "puma.items",
    "puma.evaluation.metrics",
    "puma.evaluation.runs",
    "puma.index",
    "puma.data.mbeir",
    "puma.evaluation.compare",
    "puma.mining",
    "puma.thumbnails",
    "puma.ingest",
    "puma.search",
    "puma.serve",
    "puma.cli",
)


def room(module: str) -> str:
    """The longest name in RANKS that holds the module."""
    parts = module.split(".")[1:]
    names = {name for rank in RANKS for name in rank}
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in names), "")


def rank(name: str) -> int:
    return next(i for i, names in enumerate(RANKS) if name in names)


def test_imports_run_one_way():
    wrong, unknown = [], []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(["puma", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        if module == "puma":
            continue  # the public names
        here = room(module)
        if not here:
            unknown.append(module)
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                there = room(name) if name.startswith("puma.") else ""
                if there and rank(there) > rank(here):
                    wrong.append(f"{module} imports {name}")
    assert not unknown, "rooms the ranks do not know"
    assert not wrong


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
        "import sys, puma.serve; names = ('puma.losses', 'puma.training', 'puma.twostage', 'puma.data.pairs', "
        "'datasets', 'sentence_transformers', 'peft', 'accelerate'); "
        "sys.exit(any(name in sys.modules for name in names))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
