"""Extra pairs: no name that gives a held-out concept away, icons drawn once, one concept's candidates no negatives."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from puma.data import mbeir
from puma.errors import InputError
from puma.items import MODALITIES, Item
from puma.mini.extra_pairs import icons, wordnet
from puma.mini.extra_pairs.held_out import HeldOut
from puma.mini.extra_pairs.pairs import (
    CHANGED,
    ICON_NAME,
    ICON_QUERY,
    KEYWORDS,
    WORDS,
    concepts_of,
    extra_pairs,
    with_alike,
    with_same_concept,
)
from puma.mini.training import training_rows
from puma.training.pairs import Pair, read_pairs
from puma.training.recipes.recipe import read_recipe

NAMES = {"train": ["red fox", "grey fox", "old house", "new house"], "val": ["snow owl"], "test": ["night train"]}
BODY = '<rect x="2" y="2" width="12" height="9" fill="currentColor"/>'
NOUNS = """\
  1 This line is of the licence.
00000001 05 n 01 animal 0 000 | a living organism
00000002 05 n 02 wolf 0 grey_wolf 0 001 @ 00000001 n 0000 | a wild hunter of forests; "the wolf howls"
00000003 05 n 01 owl 0 001 @ 00000001 n 0000 | a bird of the night
"""


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    for split, names in NAMES.items():
        for task in (0, 1, 3):
            wanted = "image" if task == 0 else "text"
            pool = [
                mbeir.Candidate(f"20:{n}", name if task else None, None if task else f"mbeir_images/{n}.png", wanted)
                for n, name in enumerate(names, 1)
            ]
            sources = [json.dumps({"name": name, "concept": name.split()[1]}) for name in names]
            queries = [
                mbeir.Query(
                    f"20:{100 * task + n}",
                    None if task == 3 else name,
                    f"mbeir_images/{n}.png" if task == 3 else None,
                    "image" if task == 3 else "text",
                    (f"20:{n}",),
                    (),
                    task,
                    sources[n - 1],
                )
                for n, name in enumerate(names, 1)
            ]
            mbeir.write_queries(mbeir.query_path(root, "tiny", task, split), queries)
            mbeir.write_pool(mbeir.pool_path(root, "tiny", task, split), pool)
            qrels = {query.qid: {query.positives[0]: 1} for query in queries}
            mbeir.write_qrels(mbeir.qrels_path(root, "tiny", task, split), qrels, task)
    rows = [(*mbeir.TASK_MODALITIES[task], "tiny", 20, [f"Find it, task {task}."]) for task in (0, 1, 3)]
    mbeir.write_instructions(mbeir.instructions_path(root), rows)
    return root


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """One icon set and a small WordNet in the place of the fetched ones."""
    folder = tmp_path / "packages"
    folder.mkdir()
    found = {name: {"body": BODY} for name in ("wolf", "wolf-outline", "snow-leopard", "arrow-left", "old-owl", "fox")}
    (folder / "icons.json").write_text(json.dumps({"width": 16, "height": 16, "icons": found}))
    (folder / "data.noun").write_text(NOUNS)
    calls = []

    def fetch(package, *, home=None):
        calls.append(package.name)
        return folder

    monkeypatch.setattr(icons, "fetch", fetch)
    monkeypatch.setattr(wordnet, "fetch", fetch)
    monkeypatch.setattr(icons, "icon_sets", lambda: ICON_SETS[:1])
    return calls


ICON_SETS = icons.icon_sets()


def test_every_set_is_pinned_with_its_licence():
    assert len(ICON_SETS) == 24
    assert all(len(package.sha256) == 64 and licence for package, licence in ICON_SETS)


def test_held_out_names_stay_unseen(root):
    held = HeldOut(root)
    assert "snow leopard" in held  # snow is a word of val alone
    assert "trains at night" in held
    assert "red fox" not in held
    assert "old tree" not in held


def test_pairs_of_icons_and_words(root, packages, tmp_path):
    pairs, concepts = extra_pairs(["icons", "wordnet"], root, 32, tmp_path / "home")
    by_task = {task: [pair for pair in pairs if pair.task == task] for task in (ICON_QUERY, ICON_NAME, *WORDS.values())}
    words = [pair for task in WORDS.values() for pair in by_task[task]]
    assert [pair.query.text for pair in by_task[ICON_QUERY]] == ["wolf", "fox"]
    assert [pair.candidate.text for pair in by_task[ICON_NAME]] == ["wolf", "fox"]
    with Image.open(by_task[ICON_QUERY][0].candidate.image) as icon:
        assert icon.size == (32, 32)
    assert {pair.candidate.text for pair in words} == {"animal", "wolf"}
    assert "a wild hunter of forests" in {pair.query.text for pair in by_task[WORDS["gloss"]]}
    assert [pair.query.text for pair in by_task[WORDS["synonym"]]] == ["grey wolf"]
    assert {concepts[pair.query_id] for pair in pairs} == {"wolf", "fox", "animal"}
    assert words[0].instruction == "Find it, task 1."
    again, _ = extra_pairs(["icons"], root, 32, tmp_path / "home")
    assert again == [pair for pair in pairs if pair.task not in WORDS.values()]
    assert sum("iconify" in name for name in packages) == 1  # drawn once


def test_keywords_of_training_concepts_are_drawn_anew(tmp_path):
    root = tmp_path / "data"
    keywords = {"fox": ["animal", "fur", "forest"], "house": ["building"], "tree": ["plant", "wood"]}
    for task in (0, 1, 3):
        pool = [
            mbeir.Candidate(
                f"20:{n}", name if task else None, None if task else f"{n}.png", "text" if task else "image",
                json.dumps({"concept": name, "keywords": words} if not task else {"concept": name}),
            )
            for n, (name, words) in enumerate(keywords.items(), 1)
            if not (task and name == "tree")  # a concept that no text names
        ]  # fmt: skip
        mbeir.write_pool(mbeir.pool_path(root, "tiny", task, "train"), pool)
        query = mbeir.Query(
            "20:9", "a" if task < 3 else None, None if task < 3 else "1.png", "text", ("20:1",), (), task
        )
        mbeir.write_queries(mbeir.query_path(root, "tiny", task, "train"), [query])
    rows = [(*mbeir.TASK_MODALITIES[task], "tiny", 20, [f"Find it, task {task}."]) for task in (0, 1, 3)]
    mbeir.write_instructions(mbeir.instructions_path(root), rows)
    pairs, concepts = extra_pairs(["keywords"], root, 32, tmp_path)
    assert {(pair.task, pair.candidate.text, pair.candidate_id) for pair in pairs} == {(KEYWORDS, "fox", "20:1")}
    drawn = [str(pair.query.text).split(", ") for pair in pairs]
    assert len(drawn) == len(set(concepts)) == 3
    assert all(set(words) <= set(keywords["fox"]) and len(set(words)) == len(words) for words in drawn)
    assert len(drawn[0]) >= 2
    assert set(concepts.values()) == {"fox"}
    assert {pair.instruction for pair in pairs} == {"Find it, task 1."}


def test_data_without_instructions_to_borrow_is_refused(root):
    for path in root.rglob("*task1_train*"):
        path.unlink()
    with pytest.raises(InputError, match=r"lacks the tasks \[1\]"):
        extra_pairs(["wordnet"], root, 32)
    assert extra_pairs([], root, 32) == ([], {})


def test_candidates_of_ones_concept_are_known_to_be_right(root):
    pairs = with_same_concept(read_pairs(root), concepts_of(root))
    foxes = [pair for pair in pairs if pair.task == 0 and "fox" in pair.query.text]
    assert {pair.known for pair in foxes} == {frozenset({"20:1", "20:2"})}
    other = Pair(Item(text="a"), Item(text="b"), None, 6, "q", "20:9", frozenset({"20:9"}))
    assert with_same_concept([*pairs, other], {"q": "fox"})[-1] is other


def concept_pairs():
    """The concepts of two foxes, as text, image and captioned image, and a task that changes one into a wolf."""
    text, image, both = Item(text="fox"), Item(image="fox.png"), Item(text="a fox", image="fox2.png")
    named = [(0, text, image), (3, image, text), (2, text, both), (4, image, image), (8, both, both), (6, both, text)]
    pairs = [
        Pair(query, candidate, "Find it.", task, f"q{task}", f"c{task}", frozenset({f"c{task}"}))
        for task, query, candidate in named
    ]
    wolf = Pair(both, Item(image="wolf.png"), "But a wolf.", CHANGED, "q7", "wolf", frozenset({"wolf"}))
    house = Pair(Item(text="house"), Item(image="house.png"), "Find it.", 0, "q9", "house", frozenset({"house"}))
    concepts = {f"q{task}": "fox" for task in (0, 3, 2, 4, 8, 6, 7)} | {"q9": "house"}
    return [*pairs, wolf, house], concepts


def test_a_concept_is_known_in_the_modality_asked_for_and_a_changed_thing_is_none_of_it():
    pairs, concepts = concept_pairs()
    known = {pair.task: pair.known for pair in with_same_concept(pairs, concepts) if pair.query_id != "q9"}
    assert (known[0], known[3], known[2]) == ({"c0", "c4"}, {"c3", "c6"}, {"c2", "c8"}), "images, texts, both; no wolf"
    assert (known[4], known[6], known[7]) == ({"c4"}, {"c6"}, {"wolf"})


def test_what_is_alike_is_told_where_any_modality_may_answer():
    pairs, concepts = concept_pairs()
    alike = {pair.query_id: pair.alike for pair in with_alike(pairs, concepts)}
    everything = {"c0", "c3", "c2", "c4", "c8", "c6"}
    assert {pair.candidate.modality for pair in pairs if pair.candidate_id in everything} == set(MODALITIES)
    assert all(alike[f"q{task}"] == everything for task in (0, 2, 3, 4, 8))
    assert alike["q6"] == alike["q7"] == frozenset(), "a question or a change has its own answer"
    assert alike["q9"] == {"house"}
    assert [pair.known for pair in with_alike(pairs, concepts)] == [pair.known for pair in pairs]


@pytest.mark.parametrize("same_concept", [False, True])
def test_a_recipe_whose_rows_may_ask_for_no_modality_knows_what_is_alike(root, same_concept):
    changes = {"same_concept": same_concept}
    plain = training_rows(read_recipe("mini", changes), root, None)
    asking = training_rows(read_recipe("mini", {**changes, "retrieve.any_share": 0.2}), root, None)
    assert {pair.alike for pair in plain} == {frozenset()}
    foxes = [pair for pair in asking if pair.candidate_id in ("20:1", "20:2")]
    assert {pair.alike for pair in foxes} == {frozenset({"20:1", "20:2"})}
    assert [pair.known for pair in asking] == [pair.known for pair in plain]


def test_a_recipe_with_hard_negatives_reads_the_datas(root):
    path = mbeir.query_path(root, "tiny", 0, "train")
    mbeir.write_queries(path, [replace(query, negatives=("20:3", "20:4")) for query in mbeir.read_queries(path)])
    assert not any(pair.negatives for pair in training_rows(read_recipe("mini"), root, None))
    rows = training_rows(read_recipe("mini", {"retrieve.hard_negatives": 1}), root, None)
    assert {pair.task for pair in rows if pair.negatives} == {0}
    assert all(len(pair.negatives) == 1 for pair in rows if pair.task == 0)
