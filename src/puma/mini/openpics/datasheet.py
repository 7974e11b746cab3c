"""DATASHEET.md and stats.json: what OpenPics is made of, how, how much of it, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from puma.mini.openpics.library import SPLITS, Shown
from puma.mini.openpics.records import Source
from puma.mini.openpics.tasks import INSTRUCTIONS, LIMITS, Task

MADE = {
    0: ("text -> image", "A picture's caption; found are the pictures of that concept by every source."),
    1: ("text -> text", "Keywords, a description or another name, without any word of the name; found is the name."),
    2: (
        "text -> image,text",
        "A name; found are its pictures with keywords beside them, without any word of the name.",
    ),
    3: ("image -> text", "A picture; found is its concept's one canonical name."),
    4: ("image -> image", "A picture; found are pictures of the same concept by other sources."),
    6: (
        "image,text -> text",
        "A picture and a question, either for its name (by its kind) or for its keywords; the pool holds names and "
        "keyword texts, so that the picture says what it is about and the text what is wanted.",
    ),
    7: (
        "image,text -> image",
        "A picture and a change: of the thing (names that differ in one place) or of the style; the pool holds the "
        "unchanged thing and the other styles.",
    ),
    8: (
        "image,text -> image,text",
        "A picture and two of its keywords; found are other sources' pictures of it with keywords beside them.",
    ),
}
FLAWS = (
    "Pictures are emoji, clip art, icons and a few hundred photographs: figures say nothing of photographs at large.",
    "Names are what authors wrote. Clip art has misspellings, names in Italian, French and Portuguese, and names "
    "guessed from file names; families with words that no edited source knows are kept out of test and val, unread.",
    "Only the same concept counts as right. A tabby cat's picture is counted wrong for \"cat\", though it is not.",
    "Near-duplicates are looked for among clip art and stamps only, by grey thumbnails; emoji are grouped by name.",
    "Whether two texts share a word is judged by a rough stem.",
    "Task 1's keywords are short and sometimes fit several names, of which one is counted right.",
    "Task 7's changes come from names that differ in one place: some are odd requests.",
    "Families of more than 60 pictures are never tested on, so test has fewer very common things than train.",
    "Text inside drawings is left out, since fonts differ from machine to machine.",
)  # fmt: skip


def stats(
    shown: Sequence[Shown],
    tasks: Mapping[str, Mapping[int, Task]],
    global_pools: Mapping[str, int],
    counts: Mapping[str, Mapping[str, int]],
    sources: Sequence[Source],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """Everything counted, for stats.json. Rates are in [0, 1]; chance is the expected hit rate of random ranking."""
    table: dict[str, Any] = {}
    for split in SPLITS:
        of = [one for one in shown if one.split == split]
        table[split] = {
            "pictures": len(of),
            "concepts": len({one.concept for one in of}),
            "families": len({one.family for one in of}),
            "pictures_by_source": dict(sorted(Counter(one.image.source for one in of).items())),
            "global_pool": global_pools[split],
            "tasks": {str(number): _figures(task) for number, task in tasks[split].items()},
        }
    return {
        "name": "OpenPics",
        "splits": table,
        "counts": {name: dict(sorted(counter.items())) for name, counter in counts.items()},
        "sources": [vars(source) for source in sources],
        "left_out": dict(missing),
    }


def _figures(task: Task) -> dict[str, Any]:
    pool, queries = len(task.pool), len(task.queries)
    positives = [len(query.positives) for query in task.queries]
    chance = {}
    for k in (1, 5, 10):
        hits = [1 - _none_of(pool, n, k) for n in positives]
        chance[f"hit_rate@{k}"] = round(sum(hits) / len(hits), 6) if hits else 0.0
    return {
        "queries": queries,
        "pool": pool,
        "positives_per_query": round(sum(positives) / queries, 3) if queries else 0.0,
        "chance": chance,
    }


def _none_of(pool: int, positives: int, k: int) -> float:
    """The probability that k drawn without replacement hold none of the positives."""
    miss = 1.0
    for drawn in range(k):
        miss *= max(0, pool - positives - drawn) / max(1, pool - drawn)
    return miss


def datasheet(stats: Mapping[str, Any]) -> str:
    """The datasheet as Markdown, from :func:`stats`."""
    lines = [
        "# OpenPics",
        "",
        "Free pictures that package registries ship, with names and keywords, written in M-BEIR's layout: all eight",
        "task types, split by concept family across sources. Made by `puma.mini.openpics.build`; the same packages and",
        "library versions give the same bytes.",
        "",
        "## Sources",
        "",
        "| source | package | licence | credit |",
        "|---|---|---|---|",
    ]
    lines += [f"| {s['title']} | {s['package']} | {s['licence']} | {s['credit']} |" for s in stats["sources"]]
    lines += [
        "",
        "Each picture keeps its source's licence; GPL and share-alike parts stay under theirs when passed on.",
        "",
    ]
    if stats["left_out"]:
        lines += [
            "**Left out here:** " + "; ".join(_left_out(stats["left_out"])) + ".",
            "",
        ]
        lines += [
            "Tasks below 500 candidates or 200 queries because of that: " + (", ".join(_shrunk(stats)) or "none") + ".",
            "",
        ]
    lines += ["## From files to pictures", "", "| stage | what | count |", "|---|---|---|"]
    for stage, counter in stats["counts"].items():
        lines += [f"| {stage} | {what} | {count:,} |" for what, count in counter.items()]
    lines += ["", "## Splits", "", "| split | pictures | concepts | families | global pool |", "|---|---|---|---|---|"]
    for split, row in stats["splits"].items():
        lines.append(
            f"| {split} | {row['pictures']:,} | {row['concepts']:,} | {row['families']:,} | {row['global_pool']:,} |"
        )
    lines += [
        "",
        "Skin tones, genders, drawing series, near-duplicates, kinds of one thing, and equal names in several sources",
        "make one family, which is wholly in one split: no name of test occurs in train.",
        "",
        "## Tasks",
        "",
        "| task | split | queries | pool | positives a query | chance hit@1 / 5 / 10 |",
        "|---|---|---|---|---|---|",
    ]
    for split in ("test", "val", "train"):
        for number, f in stats["splits"][split]["tasks"].items():
            chance = " / ".join(f"{100 * f['chance'][f'hit_rate@{k}']:.2f}" for k in (1, 5, 10))
            lines.append(
                f"| {number} | {split} | {f['queries']:,} | {f['pool']:,} | {f['positives_per_query']} | {chance} |"
            )
    lines += ["", f"At most {LIMITS['test']} test queries a task; concepts take turns. Chance in per cent.", ""]
    for number, (kind, text) in MADE.items():
        prompts = "; ".join(f"*{prompt}*" for prompt in INSTRUCTIONS[number])
        lines.append(f"- **{number}, {kind}.** {text} Prompts: {prompts}")
    lines += ["", "## Known flaws", "", *(f"- {flaw}" for flaw in FLAWS), ""]
    return "\n".join(lines)


def _left_out(missing: Mapping[str, str]) -> list[str]:
    reasons = dict.fromkeys(missing.values())
    return [", ".join(name for name, why in missing.items() if why == reason) + f" ({reason})" for reason in reasons]


def _shrunk(stats: Mapping[str, Any]) -> list[str]:
    return [
        f"{number} ({f['queries']} queries, {f['pool']} candidates)"
        for number, f in stats["splits"]["test"]["tasks"].items()
        if f["queries"] < 200 or f["pool"] < 500
    ]
