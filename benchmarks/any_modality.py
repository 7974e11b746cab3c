"""What to do where a query asks for no modality: one query or one for each, and how their hits come into one order.

    python benchmarks/any_modality.py --split val             # puma-mini; --model FOLDER... for others
    python benchmarks/any_modality.py --split test
    python benchmarks/any_modality.py --report                # the table in docs/results.md

The pool: OpenPics' texts, images and captioned images in equal parts (:mod:`puma.mini.openpics.mixed`). Each way is
judged on the whole pool, where something right is in each modality; on pools in which a modality has nothing right
for the query, or only one has; and where texts are few (15 in 100). Besides, 20 everyday nouns over the split's whole
global pool with as few texts. Results go to ``benchmarks/results/any_modality.json``, one row a model and split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from puma.cli.commands._shared import quiet_libraries
from puma.data.mbeir import Benchmark
from puma.data.records import Candidate
from puma.evaluation.mixed import mixed_table
from puma.index import Hit
from puma.items import IMAGE, IMAGE_TEXT, MODALITIES, TEXT, Item
from puma.mini.openpics.library import order
from puma.mini.openpics.mixed import mixed_pool
from puma.search.merging import CALIBRATED, RANK, SCORE, level_of, levels, merged
from puma.search.queries import INSTRUCTIONS
from puma.storage.folders import write_json

RESULTS = Path(__file__).parent / "results" / "any_modality.json"
K = 10
FEW_TEXTS = 0.15
POOLS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "no text fits": (TEXT,),
    "no image fits": (IMAGE,),
    "no captioned image fits": (IMAGE_TEXT,),
    "only texts fit": (IMAGE, IMAGE_TEXT),
    "only images fit": (TEXT, IMAGE_TEXT),
    "only captioned images fit": (TEXT, IMAGE),
    "few texts": (),
}
"""By name, the modalities from which the query's right items are taken away."""
NOUNS = (
    "bird", "fish", "umbrella", "bus", "food", "clock", "phone", "cake", "flower", "horse", "beach", "hat", "shoe",
    "heart", "boat", "house", "sun", "music", "fruit", "tool",
)  # fmt: skip

Keys = Callable[[str, np.ndarray, np.ndarray], np.ndarray]
"""From a modality, its best scores [n] and all its scores, the best ones' keys [n]."""


def centred(name: str, best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return best - scores.mean()


def z_scores(name: str, best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return (best - scores.mean()) / scores.std()


def upper_z_scores(name: str, best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    known = level_of(scores)
    return (best - known.mean) / known.spread


def half_z_scores(name: str, best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return (best - scores.mean()) / np.sqrt(scores.std())


def gumbel(name: str, best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How far above the 95th percentile, in units of how far that is above the median."""
    middle, high = np.quantile(scores, [0.5, 0.95])
    return (best - high) / (high - middle)


SEARCHED: dict[str, Keys] = {
    "centred": centred,
    "z-score": z_scores,
    "z-score, half the spread": half_z_scores,
    "z-score, spread above the mean": upper_z_scores,
    "above the 95th percentile": gumbel,
}
"""Ways to calibrate that were compared; the one that is shipped is ``calibrated`` of :mod:`puma.search.merging`."""


class Material:
    """A pool's and its queries' vectors.

    Args:
        vectors: candidates, float32 [n, dim].
        queries: float32 [queries, dim] for ``uninstructed``, ``any`` and each modality.
    """

    def __init__(self, candidates: Sequence[Candidate], vectors: np.ndarray, queries: dict[str, np.ndarray]) -> None:
        self.dids = np.array([candidate.did for candidate in candidates])
        self.modality = {candidate.did: candidate.modality for candidate in candidates}
        kinds = np.array([candidate.modality for candidate in candidates])
        self.columns = {name: np.flatnonzero(kinds == name) for name in MODALITIES}
        self.vectors = vectors
        self.scores = {name: own @ vectors.T for name, own in queries.items()}
        self.queries = queries

    def single(self, query: int, name: str, there: np.ndarray) -> list[str]:
        """One query over everything."""
        columns = np.flatnonzero(there)
        best = np.argsort(-self.scores[name][query, columns], kind="stable")[:K]
        return self.dids[columns[best]].tolist()

    def lists(self, query: int, there: np.ndarray, one: str | None = None) -> dict[str, tuple[list[Hit], np.ndarray]]:
        """By modality, the best hits and the columns that are there; ``one``: with the same query for each."""
        found = {}
        for name in MODALITIES:
            columns = self.columns[name][there[self.columns[name]]]
            if len(columns):
                own = self.scores[one or name][query, columns]
                best = np.argsort(-own, kind="stable")[:K]
                hits = [Hit(self.dids[columns[place]], float(own[place]), name) for place in best]
                found[name] = hits, columns
        return found

    def order(self, query: int, way: str, there: np.ndarray) -> list[str]:
        """The first ids that a way finds among the candidates that are there (bool [candidates])."""
        if way in ("uninstructed", "any"):
            return self.single(query, way, there)
        own = way.removeprefix("uninstructed, ")
        one = None if own == way else "uninstructed"
        found = self.lists(query, there, one)
        lists = {name: hits for name, (hits, _) in found.items()}
        if own in (SCORE, RANK):
            return [hit.id for hit in merged(lists, own)[:K]]
        if own == CALIBRATED:
            vectors = {name: self.queries[one or name][query] for name in lists}
            known = levels(vectors, {name: self.vectors[columns] for name, (_, columns) in found.items()})
            return [hit.id for hit in merged(lists, own, known)[:K]]
        keys: list[tuple[float, str]] = []
        for name, (hits, columns) in found.items():
            scores = self.scores[one or name][query, columns]
            best = np.array([hit.score for hit in hits])
            keys += [(-key, hit.id) for key, hit in zip(SEARCHED[own](name, best, scores), hits, strict=True)]
        return [did for _, did in sorted(keys)[:K]]


WAYS = ("uninstructed", "any", SCORE, RANK, *SEARCHED, CALIBRATED, f"uninstructed, {CALIBRATED}")


def measure(encoder: Any, root: Path, split: str) -> dict[str, Any]:
    """Figures by way and pool, and of the nouns."""
    benchmark = Benchmark(root)
    pool = mixed_pool(benchmark, split)
    everything = {one.did: one for one in (*pool.candidates, *benchmark.global_pool(split))}
    vectors = dict(zip(everything, encoder.encode([one.item(root) for one in everything.values()]), strict=True))
    rows = np.stack([vectors[one.did] for one in pool.candidates])
    material = Material(pool.candidates, rows, asked(encoder, benchmark, [str(query.text) for query in pool.queries]))
    found: dict[str, Any] = {}
    for name, without in POOLS.items():
        theirs = {}
        grades = {}
        few = thinned(pool.candidates) if name == "few texts" else np.ones(len(pool.candidates), dtype=bool)
        for number, query in enumerate(pool.queries):
            own = pool.grades[query.qid]
            taken = {did for did in own if material.modality[did] in without}
            there = few & ~np.isin(material.dids, list(taken))
            left = set(material.dids[there].tolist())
            grades[query.qid] = {did: grade for did, grade in own.items() if did in left}
            theirs[query.qid] = number, there
        grades = {qid: row for qid, row in grades.items() if row}
        for way in WAYS:
            orders = {qid: material.order(theirs[qid][0], way, theirs[qid][1]) for qid in grades}
            found.setdefault(way, {})[name] = asdict(mixed_table(grades, orders, material.modality, K))
    for way in WAYS:
        found[way]["mean ndcg"] = statistics.fmean(found[way][name]["ndcg"] for name in POOLS)
        found[way]["mean precision"] = statistics.fmean(found[way][name]["precision"] for name in POOLS)
        found[way]["mean first"] = statistics.fmean(found[way][name]["first"] for name in POOLS)
    return {"pool": len(pool.candidates), "queries": len(pool.queries), "ways": found} | {
        "nouns": nouns(encoder, benchmark, split, vectors)
    }


def asked(encoder: Any, benchmark: Benchmark, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The queries' vectors, uninstructed, with the instruction for any modality and for each: the model's own ones, or
    the benchmark's where its folder holds none."""
    trained = {benchmark.modalities(task): benchmark.instruction(task) for task in benchmark.tasks("val")}
    known = {**INSTRUCTIONS, **(getattr(encoder, "instructions", {}) or trained)}
    items = [Item(text) for text in texts]
    prompts = {"uninstructed": None, "any": known[TEXT, None]} | {name: known[TEXT, name] for name in MODALITIES}
    return {name: encoder.encode(items, instruction=prompt) for name, prompt in prompts.items()}


def thinned(candidates: Sequence[Candidate]) -> np.ndarray:
    """All candidates but most texts, so that texts are FEW_TEXTS of what is left: bool [candidates]."""
    texts = sorted((one.did for one in candidates if one.modality == TEXT), key=order)
    others = len(candidates) - len(texts)
    kept = set(texts[: round(others * FEW_TEXTS / (1 - FEW_TEXTS))])
    return np.array([one.modality != TEXT or one.did in kept for one in candidates])


def nouns(encoder: Any, benchmark: Benchmark, split: str, vectors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The everyday nouns of which the split has something: right is what has the word in its name, keywords, kind or
    text."""
    pool = benchmark.global_pool(split)
    pool = [one for one, kept in zip(pool, thinned(pool), strict=True) if kept]
    said = {one.did: _words(one) for one in pool}
    words = [word for word in NOUNS if sum(word in own for own in said.values()) >= 3]
    material = Material(pool, np.stack([vectors[one.did] for one in pool]), asked(encoder, benchmark, words))
    there = np.ones(len(pool), dtype=bool)
    grades = {word: {did: 1 for did, own in said.items() if word in own} for word in words}
    share = {name: len(columns) / len(pool) for name, columns in material.columns.items()}
    found: dict[str, Any] = {"items": len(pool), "shares": share, "words": words, "ways": {}}
    for way in WAYS:
        orders = {word: material.order(number, way, there) for number, word in enumerate(words)}
        own = asdict(mixed_table(grades, orders, material.modality, K))
        firsts = [material.modality[found_ids[0]] for found_ids in orders.values()]
        found["ways"][way] = own | {"text first": firsts.count(TEXT), "right first": round(own["first"] * len(words))}
    return found


def _words(candidate: Candidate) -> set[str]:
    known = json.loads(candidate.src or "{}")
    texts = [known.get("name", ""), known.get("category", ""), candidate.text or ""]
    texts += [*known.get("keywords", ()), *known.get("aliases", ())]
    return {word.strip(".,:;()") for text in texts for word in text.lower().split()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a row a model and way."""
    if not rows:
        return "Not run yet."
    lines = []
    for row in rows:
        lines += [
            f"**{row['model']}**, {row['split']}: {row['queries']} queries, {row['pool']:,} items. Percent; P is "
            "precision@10, N nDCG@10, 1st how often the first is right; texts / images / both of the first ten.",
            "",
            "| way | P | N | 1st | first ten | not in one: N | in one only: N | few texts: N | mean N |",
            f"|{'---|' * 9}",
        ]
        for way, own in row["ways"].items():
            whole = own["whole"]
            shares = " / ".join(f"{100 * whole['shares'][name]:.0f}" for name in MODALITIES)
            lacking = statistics.fmean(own[name]["ndcg"] for name in POOLS if len(POOLS[name]) == 1)
            only = statistics.fmean(own[name]["ndcg"] for name in POOLS if len(POOLS[name]) == 2)
            cells = (whole["precision"], whole["ndcg"], whole["first"])
            rest = (lacking, only, own["few texts"]["ndcg"], own["mean ndcg"])
            lines.append(
                f"| {way} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} | {shares} | "
                f"{' | '.join(f'{100 * cell:.1f}' for cell in rest)} |"
            )
        lines.append("")
    return "\n".join(lines).strip()


def main() -> None:
    options = arguments()
    quiet_libraries()
    known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else []
    if options.report:
        from _ablation_report import replace_between

        replace_between(options.docs / "results.md", "any-modality", table(known))
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    from puma.mini import openpics
    from puma.mini.default import default_model
    from puma.retriever.model import Retriever

    root = openpics.build()
    for path in options.model or [default_model()]:
        start = time.monotonic()
        retriever = Retriever.from_pretrained(path)
        row = {"model": Path(path).name, "fingerprint": retriever.fingerprint, "split": options.split}
        row |= measure(retriever, root, options.split) | {"seconds": round(time.monotonic() - start, 1)}
        known = [one for one in known if (one["model"], one["split"]) != (row["model"], row["split"])] + [row]
        write_json(options.results, known)
        print(table([row]), flush=True)
        for way, own in row["nouns"]["ways"].items():
            print(
                f"{way:32} right first {own['right first']}, text first {own['text first']} of "
                f"{len(row['nouns']['words'])}; precision {own['precision']:.3f}, {own['shares']}"
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[], help="retriever folders; puma-mini if left out")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores this process may use")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only write the table in docs/results.md")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
