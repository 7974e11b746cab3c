"""From which score on a hit is likely what was meant: measured on OpenPics' test split, whose concepts are untrained.

    python benchmarks/score_cutoffs.py                                  # puma-mini, into the package's own table
    python benchmarks/score_cutoffs.py --model my-model --out my-model/puma_cutoffs.json

For each query modality, modality searched for (or none) and modality of the hit:

- *right*: the best score of a right candidate, over the queries that have one among their first ten;
- *absent*: the best score when all candidates of the query's concept are taken out of the pool: nothing there is right.

What is the query itself (the same text or picture) is in neither. The cut-off is the score that 90 % of *right* reach.
``absent_above`` is the share of *absent* that reach it too: what is still passed off as a hit where there is none. A
cut-off that lets more than half of them pass tells nothing; it is printed and left out of the table. ``standing`` is
that share where scores are measured as standard deviations above the query's mean over the candidates.

Near-duplicates (``--duplicates``) are measured beside it: the cosine of 400 pictures with copies of them, and with each
other.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from puma.cli.commands._shared import load_retriever, quiet_libraries
from puma.data.mbeir import Benchmark, Candidate, Query
from puma.items import Item, open_image
from puma.mini.fetch.packages import cache_home
from puma.search.queries import INSTRUCTIONS
from puma.storage.folders import write_json

KEPT = 0.9
USEFUL = 0.5
"""Of the best scores where nothing is right, the share that may reach a cut-off."""
FIRST = 10
PACKAGED = Path(__file__).parents[1] / "src" / "puma" / "search" / "puma_cutoffs.json"


def concept(entry: Query | Candidate) -> str:
    """What an entry shows, by OpenPics' own name."""
    return str(json.loads(entry.src or "{}").get("concept"))


def is_itself(query: Query, candidate: Candidate) -> bool:
    """Whether a candidate holds nothing but what the query holds."""
    text = (query.text or "").strip().lower() == (candidate.text or "").strip().lower()
    return text and query.image_path == candidate.image_path


def instruction(retriever: Any, query: str, wanted: str | None) -> str | None:
    """As :class:`puma.Searcher` chooses it."""
    own = retriever.instructions
    general = None if own and wanted is None else INSTRUCTIONS.get((query, wanted))
    return own.get((query, wanted)) or general


def cutoff(right: np.ndarray, absent: np.ndarray, kept: float = KEPT) -> dict[str, float]:
    """The score that ``kept`` of ``right`` reach, and the share of ``absent`` that reach it."""
    score = round(float(np.floor(np.quantile(right.astype(np.float64), 1 - kept) * 1e4) / 1e4), 4)
    return {"score": score, "absent_above": round(float((absent >= score).mean()), 3)}


def distributions(
    scores: np.ndarray, positives: np.ndarray, same: np.ndarray, itself: np.ndarray, first: int = FIRST
) -> tuple[np.ndarray, np.ndarray]:
    """The two kinds of best scores.

    Args:
        scores: [queries, candidates].
        positives: bool, which candidates are right.
        same: bool, which candidates are of the query's concept, right or not.
        itself: bool, which candidates are the query's own text or picture.

    Returns:
        (right, absent): one number a query, of the queries that have a right one among the first, and of all.
    """
    scores, positives = np.where(itself, -2, scores), positives & ~itself
    best = np.where(positives, scores, -2).max(1)
    # Ties count against: a right one that ties with the last of the first is not among them.
    among = (scores >= best[:, None]).sum(1) - (np.where(positives, scores, -2) >= best[:, None]).sum(1) < first
    return best[positives.any(1) & among], np.where(same | positives, -2, scores).max(1)


def measure(retriever: Any, root: Path, limit: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    benchmark = Benchmark(root)
    pool: dict[str, Candidate] = {}
    queries: dict[str, list[tuple[Query, dict[str, int]]]] = {}
    for task in benchmark.tasks("test"):
        pool |= {one.did: one for one in benchmark.pool(task, "test")}
        qrels = benchmark.qrels(task, "test")
        given = benchmark.queries(task, "test")
        kept = random.Random(0).sample(given, min(limit, len(given)))
        queries.setdefault(kept[0].modality, []).extend((one, qrels[one.qid]) for one in kept)
    candidates = list(pool.values())
    names = np.array([concept(one) for one in candidates])
    kinds = np.array([one.modality for one in candidates])
    vectors = retriever.encode([one.item(root) for one in candidates], show_progress=True)
    rows = []
    for kind, asked in queries.items():
        items = [one.item(root) for one, _ in asked]
        same = np.array([[concept(one)] for one, _ in asked]) == names[None]
        # A query may be of any task here: whatever shows its concept is right, too.
        positives = np.array([[one.did in right for one in candidates] for _, right in asked]) | same
        itself = np.array([[is_itself(one, other) for other in candidates] for one, _ in asked])
        for wanted in ("text", "image", "image,text", None):
            scores = retriever.encode(items, instruction(retriever, kind, wanted)) @ vectors.T
            for hit in ("text", "image", "image,text") if wanted is None else (wanted,):
                columns = kinds == hit
                which = positives[:, columns], same[:, columns], itself[:, columns]
                own = scores[:, columns].astype(np.float64)
                right, absent = distributions(own, *which)
                if len(right) < 30:
                    continue
                row = {"query": kind, "wanted": wanted, "hit": hit} | cutoff(right, absent)
                standing = (own - own.mean(1, keepdims=True)) / own.std(1, keepdims=True)
                row |= {"standing": cutoff(*distributions(standing, *which))["absent_above"]}
                row |= {"right": len(right), "queries": len(asked)}
                print(row, flush=True)
                if row["absent_above"] <= USEFUL:
                    rows.append(row)
    return rows


def duplicates(retriever: Any, root: Path, count: int = 400) -> dict[str, Any]:
    """Cosines of pictures with their copies, and with the picture most like them."""
    pool = [one for one in Benchmark(root).pool(0, "test") if one.image_path]
    images = [open_image(root / str(one.image_path)) for one in random.Random(0).sample(pool, min(count, len(pool)))]
    base = retriever.encode([Item(image=image) for image in images])

    def jpeg(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=40)
        return open_image(stream.getvalue())

    copies = {
        "JPEG of quality 40": [jpeg(image) for image in images],
        "half the size": [image.resize((max(1, image.width // 2), max(1, image.height // 2))) for image in images],
    }
    found: dict[str, Any] = {
        name: round(float((retriever.encode([Item(image=image) for image in made]) * base).sum(1).min()), 4)
        for name, made in copies.items()
    }
    cosines = (base @ base.T)[np.triu_indices(len(base), 1)]
    return found | {"pairs": len(cosines), "pairs from 0.99": int((cosines >= 0.99).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a retriever's folder; puma-mini by default")
    parser.add_argument("--name", default="puma-mini")
    parser.add_argument("--root", type=Path, default=cache_home() / "openpics-1")
    parser.add_argument("--limit", type=int, default=150, help="queries a task")
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--duplicates", action="store_true", help="measure near-duplicates and write nothing")
    options = parser.parse_args()
    quiet_libraries()
    retriever = load_retriever(options.model)
    if options.duplicates:
        print(duplicates(retriever, options.root))
        return
    rows = measure(retriever, options.root, options.limit)
    table = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {"models": {}}
    if not rows:
        print("no score tells right from absent with this model; nothing is written")
        return
    table["models"][retriever.fingerprint] = {"name": options.name, "kept": KEPT, "cutoffs": rows}
    write_json(options.out, table)


if __name__ == "__main__":
    main()
