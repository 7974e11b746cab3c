"""Extra pairs: no name that gives a held-out concept away, icons drawn once, one concept's candidates no negatives."""

import json

import pytest
from PIL import Image

from puma.data import mbeir
from puma.errors import InputError
from puma.items import Item
from puma.mini.extra_pairs import icons, wordnet
from puma.mini.extra_pairs.held_out import HeldOut
from puma.mini.extra_pairs.pairs import ICON_NAME, ICON_QUERY, WORD, concepts_of, extra_pairs, with_same_concept
from puma.training.pairs import Pair, read_pairs

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
    by_task = {task: [pair for pair in pairs if pair.task == task] for task in (ICON_QUERY, ICON_NAME, WORD)}
    assert [pair.query.text for pair in by_task[ICON_QUERY]] == ["wolf", "fox"]
    assert [pair.candidate.text for pair in by_task[ICON_NAME]] == ["wolf", "fox"]
    with Image.open(by_task[ICON_QUERY][0].candidate.image) as icon:
        assert icon.size == (32, 32)
    assert {pair.candidate.text for pair in by_task[WORD]} == {"animal", "wolf"}
    assert "a wild hunter of forests" in {pair.query.text for pair in by_task[WORD]}
    assert {concepts[pair.query_id] for pair in pairs} == {"wolf", "fox", "animal"}
    assert by_task[WORD][0].instruction == "Find it, task 1."
    again, _ = extra_pairs(["icons"], root, 32, tmp_path / "home")
    assert again == [pair for pair in pairs if pair.task != WORD]
    assert sum("iconify" in name for name in packages) == 1  # drawn once


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
