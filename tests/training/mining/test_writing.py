"""A benchmark with mined negatives: a whole root, the guards at work on files, kill -9, refusals; training reads it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.cli import app as cli
from puma.data.layout import UNION_TRAIN, mixed_query_path
from puma.data.mbeir import (
    Benchmark,
    Candidate,
    Query,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import DataError, InputError
from puma.evaluation.runs import write_run
from puma.evaluation.stored.resumable import Work
from puma.training.mining import Rules, mine
from puma.training.pairs import read_pairs
from support.encoders import ToyEncoder

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 200, 0), (0, 200, 200), (90, 0, 0)]
NAMES = ["red", "green", "blue", "red green", "green blue", "red dark"]


@pytest.fixture
def root(tmp_path):
    return build(tmp_path / "bench")


def build(root):
    (root / "mbeir_images").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (8, 8), colour).save(root / f"mbeir_images/{number}.png")
    (root / "mbeir_images/copy.png").write_bytes((root / "mbeir_images/0.png").read_bytes())
    images = [Candidate(f"9:{n}", None, f"mbeir_images/{n}.png", "image") for n in range(6)]
    images.append(Candidate("9:6", None, "mbeir_images/copy.png", "image"))
    texts = [Candidate(f"9:{n + 10}", name, None, "text") for n, name in enumerate(NAMES)]
    asked = [
        Query(f"9:{n}", name, None, "text", (f"9:{n}",), ("9:5",) if n == 1 else (), 0)
        for n, name in enumerate(NAMES[:4])
    ]
    asked.append(Query("9:4", "red", None, "text", ("9:5",), (), 0))  # the first query's words, another positive
    shown = [Query(f"9:{n + 20}", None, f"mbeir_images/{n}.png", "image", (f"9:{n + 10}",), (), 3) for n in range(4)]
    for task, queries, pool in ((0, asked, images), (3, shown, texts)):
        for split in ("train", "test"):
            write_queries(query_path(root, "tiny", task, split), queries)
            write_pool(pool_path(root, "tiny", task, split), pool)
            write_qrels(
                qrels_path(root, "tiny", task, split), {q.qid: dict.fromkeys(q.positives, 1) for q in queries}, task
            )
    rows = [("text", "image", "tiny", 9, ["Find a picture."]), ("image", "text", "tiny", 9, ["Name it."])]
    write_instructions(instructions_path(root), rows)
    return root


def negatives(root, task, split="train"):
    return {query.qid: query.negatives for query in Benchmark(root).queries(task, split)}


def tree(root):
    """Every file under a root with its bytes, links followed."""
    return {
        str(Path(folder, name).relative_to(root)): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
    }


def test_negatives_are_the_nearest_that_are_not_right(root, tmp_path):
    result = mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=Rules(2, 0, None), progress=False)
    found = negatives(tmp_path / "out", 0)
    encoder = ToyEncoder()
    pool = Benchmark(root).pool(0, "train")
    vectors = encoder.encode([candidate.item(root) for candidate in pool])
    query = encoder.encode([Query("9:1", "green", None, "text").item(root)])[0]
    scores = np.round((vectors @ query).astype(np.float64), 6)
    ranked = [did for _, did in sorted((-score, c.did) for score, c in zip(scores, pool, strict=True))]
    assert list(found["9:1"]) == [did for did in ranked if did not in ("9:1", "9:6")][:2]
    # "red": 9:0 is its positive, 9:6 has its bytes, 9:5 is right for the other query with these words
    assert not set(found["9:0"]) & {"9:0", "9:6", "9:5"}
    assert set(found["9:0"]) == set(found["9:4"])
    assert result["tasks"]["0"] == {
        "queries": 5, "full": 5, "none": 0, "negatives": 10, "alike": 2, "beyond_margin": 0, "unjudged": 0,
        "unreadable": 0,
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "mining.json").read_text()) == result


def test_the_new_root_is_whole_and_the_old_one_untouched(root, tmp_path):
    before = tree(root)
    mine(root, tmp_path / "out", encoder=ToyEncoder(), tasks=[0], progress=False)
    after = tree(tmp_path / "out")
    assert tree(root) == before
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"mining.json", "query/train/mbeir_tiny_task0_train.jsonl"}
    assert set(before) <= set(after)
    assert (tmp_path / "out" / "mbeir_images").is_symlink()
    assert not list(tmp_path.glob(".*mining"))
    mine(root, tmp_path / "copied", encoder=ToyEncoder(), tasks=[0], copy=True, progress=False)
    assert not any(path.is_symlink() for path in (tmp_path / "copied").rglob("*"))
    assert set(tree(tmp_path / "copied")) == set(after)


def test_training_reads_them(root, tmp_path):
    mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=Rules(2, 0, None), progress=False)
    pairs = read_pairs(tmp_path / "out", negatives=2)
    assert all(len(pair.negatives) == 2 for pair in pairs)
    assert not any(did in pair.known for pair in pairs for did, _ in pair.negatives)
    assert all(item.image is None or Path(item.image).is_file() for pair in pairs for _, item in pair.negatives)


def test_the_global_pool_gives_negatives_of_the_other_modality(root, tmp_path):
    mine(root, tmp_path / "out", encoder=ToyEncoder(), pool="global", rules=Rules(1, 0, None), progress=False)
    assert negatives(tmp_path / "out", 0)["9:1"] == ("9:11",)  # the word, where the image was asked for
    assert all(pair.negatives for pair in read_pairs(tmp_path / "out", negatives=1))


def slow_others(root, task, most):
    """By query: candidates of all tasks that have not the modality asked for and score as high as the best positive."""
    encoder, benchmark = ToyEncoder(), Benchmark(root)
    pool = {c.did: c for each in (0, 3) for c in benchmark.pool(each, "train")}
    wanted = benchmark.modalities(task)[1]
    found = {}
    for query in benchmark.queries(task, "train"):
        vector = encoder.encode([query.item(root)], instruction=benchmark.instruction(task))[0].astype(np.float64)
        score = {
            did: round(float(encoder.encode([c.item(root)])[0].astype(np.float64) @ vector), 6)
            for did, c in pool.items()
        }
        # "red" is asked twice, so both of its positives are right for both
        right = {did for q in benchmark.queries(task, "train") if q.text == query.text for did in q.positives}
        right = right if query.text else set(query.positives)
        floor = max(score[did] for did in right)
        others = [did for did in pool if pool[did].modality != wanted and score[did] >= floor]
        ranked = sorted(others, key=lambda did: (-score[did], did))
        # 9:6 has the bytes of 9:0: of the two the first one counts
        found[query.qid] = tuple(did for did in ranked if did != "9:6" or "9:0" not in ranked)[:most]
    return found


@pytest.mark.parametrize("pool", ["local", "global"])
def test_others_of_the_wrong_modality_are_those_that_beat_the_positive(root, tmp_path, pool):
    rules = Rules(2, 0, 0.0)
    mine(root, tmp_path / "plain", encoder=ToyEncoder(), rules=rules, pool=pool, progress=False)
    rules = Rules(2, 0, 0.0, other_modality=2)
    result = mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=rules, pool=pool, progress=False)
    for task in (0, 3):
        plain, found, slow = negatives(tmp_path / "plain", task), negatives(tmp_path / "out", task), None
        slow = slow_others(root, task, 2)
        expected = {q: (*own, *(did for did in slow[q] if did not in own)) for q, own in plain.items()}
        assert found == expected
        assert result["tasks"][str(task)]["other_modality"] == sum(len(found[q]) - len(plain[q]) for q in plain)
    assert any(slow_others(root, 0, 2).values()), "a word is nearer to itself than its picture"
    assert "other_modality" not in json.loads((tmp_path / "plain" / "mining.json").read_text())["made_with"]


def test_training_takes_them_with_their_own_modality(root, tmp_path, base):
    from puma.losses.batch_keys import CANDIDATE_MODALITY, chunk_key
    from puma.retriever.model import Retriever
    from puma.training.collating import PairCollator

    rules = Rules(1, 0, 0.0, other_modality=2)
    mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=rules, progress=False)
    pairs = [pair for pair in read_pairs(tmp_path / "out", negatives=3) if pair.task == 0]
    wrong = {did: item for pair in pairs for did, item in pair.negatives if item.modality == "text"}
    assert wrong, "texts, where an image was asked for"
    retriever = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    batch = PairCollator(pairs, retriever.inputs, hard_negatives=3)([{"row": n} for n in range(len(pairs))])
    codes = batch[chunk_key(0, CANDIDATE_MODALITY)].tolist()
    assert codes[: len(pairs)] == [1] * len(pairs)
    assert codes[len(pairs) :].count(0) == len(wrong)


def test_others_come_from_the_global_run_file_too(root, tmp_path):
    from puma.evaluation.mbeir import evaluate

    pool = {c.did: c for task in (0, 3) for c in Benchmark(root).pool(task, "train")}
    write_pool(global_pool_path(root, "train"), pool.values())
    evaluate(ToyEncoder(), root, split="train", run_dir=tmp_path / "runs", progress=False)
    rules = Rules(2, 0, 0.1, other_modality=3)
    for name, source in (("a", {"encoder": ToyEncoder()}), ("b", {"run_dir": tmp_path / "runs"})):
        mine(root, tmp_path / name, rules=rules, progress=False, **source)
    for task in (0, 3):
        assert negatives(tmp_path / "a", task) == negatives(tmp_path / "b", task)
    assert any(slow_others(root, 0, 3).values())


def test_a_run_file_serves_as_well_as_the_encoder(root, tmp_path):
    from puma.evaluation.mbeir import evaluate

    evaluate(ToyEncoder(), root, split="train", pools=("local",), run_dir=tmp_path / "runs", progress=False)
    for name, source in (("a", {"encoder": ToyEncoder()}), ("b", {"run_dir": tmp_path / "runs"})):
        mine(root, tmp_path / name, rules=Rules(3, 1, 0.2), progress=False, **source)
    for task in (0, 3):
        assert negatives(tmp_path / "a", task) == negatives(tmp_path / "b", task)
        assert any(negatives(tmp_path / "a", task).values())


def test_a_query_whose_positive_a_run_lacks_gets_none_and_is_counted(root, tmp_path):
    run = {f"9:{n}": {"9:3": 0.5, "9:2": 0.4} for n in range(5)}
    write_run(tmp_path / "runs/task0_train_local.run", run)
    result = mine(root, tmp_path / "out", run_dir=tmp_path / "runs", tasks=["0"], rules=Rules(1, 0, 0.0))
    assert negatives(tmp_path / "out", 0) == {"9:0": (), "9:1": (), "9:2": (), "9:3": ("9:2",), "9:4": ()}
    assert (result["tasks"]["0"]["unjudged"], result["tasks"]["0"]["none"]) == (3, 4)
    write_run(tmp_path / "others/task0_train_local.run", {"8:1": {"8:2": 1.0}})
    with pytest.raises(DataError, match="no query and candidate of the run file"):
        mine(root, tmp_path / "none", run_dir=tmp_path / "others", tasks=[0])


def test_unreadable_images_are_never_negatives(root, tmp_path):
    (root / "mbeir_images/1.png").unlink()
    result = mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=Rules(9, 0, None), progress=False)
    assert not any("9:1" in dids for dids in negatives(tmp_path / "out", 0).values())
    assert result["tasks"]["0"]["unreadable"] == 1
    assert negatives(tmp_path / "out", 3)["9:21"] == ()
    assert result["skipped"] == 2
    assert {line.split(": ")[0] for line in result["skipped_items"]} == {"9:1", "9:21"}
    assert result["tasks"]["3"]["unreadable"] == 1


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from support.encoders import ToyEncoder
from puma.training.mining import Rules, mine
left = {left}
class Dying(ToyEncoder):
    def encode(self, items, *, instruction=None):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return super().encode(items, instruction=instruction)
mine({root!r}, {out!r}, encoder=Dying(), rules=Rules(2, 0, None), batch_size=3, progress=False)
"""


def test_killed_anywhere_it_goes_on_and_ends_the_same(root, tmp_path):
    options = {"rules": Rules(2, 0, None), "batch_size": 3, "progress": False}
    mine(root, tmp_path / "whole", encoder=ToyEncoder(), **options)
    paths = [str(Path(__file__).parents[2]), *[path for path in sys.path if path]]
    for left in (0, 3, 6):  # at once, among the candidates, after the first task
        out = tmp_path / f"killed{left}"
        code = KILLED.format(paths=paths, left=left, root=str(root), out=str(out))
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
        assert not out.exists()
        encoder = ToyEncoder()
        said = []
        mine(root, out, encoder=encoder, work=Work(say=said.append), **options)
        assert tree(out) == tree(tmp_path / "whole")
        kept = {0: 0, 3: 9, 6: 18 - 2}[left]  # of 13 candidates, 5 + 4 queries, in threes
        assert encoder.calls == 22 - kept
        assert [line.split()[0] for line in said] == ([str(kept)] if kept else [])
        assert not list(tmp_path.glob(".*"))


def test_the_same_command_again_is_answered_and_another_refused(root, tmp_path):
    first = mine(root, tmp_path / "out", encoder=ToyEncoder(), progress=False)
    encoder = ToyEncoder()
    assert mine(root, tmp_path / "out", encoder=encoder, progress=False) == first
    assert encoder.calls == 0
    with pytest.raises(InputError, match="exists and is not empty"):
        mine(root, tmp_path / "out", encoder=ToyEncoder(), rules=Rules(1), progress=False)


def test_the_work_of_another_run_is_not_gone_on_with(root, tmp_path):
    class Broken(ToyEncoder):
        def encode(self, items, *, instruction=None):
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        mine(root, tmp_path / "out", encoder=Broken(), progress=False)
    with pytest.raises(InputError, match=r"another run \(scores differ\)"):
        mine(root, tmp_path / "out", encoder=ToyEncoder(fingerprint="toy-2"), progress=False)
    anew = Work(resume=False)
    assert mine(root, tmp_path / "out", encoder=ToyEncoder(fingerprint="toy-2"), work=anew, progress=False)["tasks"]


def test_bad_arguments(root, tmp_path):
    with pytest.raises(InputError, match="one source of scores"):
        mine(root, tmp_path / "out")
    with pytest.raises(InputError, match="one source of scores"):
        mine(root, tmp_path / "out", encoder=ToyEncoder(), run_dir=tmp_path)
    with pytest.raises(InputError, match="pool='wide'"):
        mine(root, tmp_path / "out", encoder=ToyEncoder(), pool="wide")
    with pytest.raises(InputError, match=r"tasks must be some of \[0, 3\]"):
        mine(root, tmp_path / "out", encoder=ToyEncoder(), tasks=[7])
    for inside in (root, root / "hard", root.parent):
        with pytest.raises(InputError, match="must lie outside"):
            mine(root, inside, encoder=ToyEncoder())
    with pytest.raises(InputError, match="no such run file"):
        mine(root, tmp_path / "out", run_dir=tmp_path / "nowhere")


def published(root):
    """The same queries as M-BEIR publishes train: one file for a data set, candidates in the union's pool only."""
    build(root)
    benchmark = Benchmark(root)
    queries = [query for task in (0, 3) for query in benchmark.queries(task, "train")]
    candidates = [candidate for task in (0, 3) for candidate in benchmark.pool(task, "train")]
    for task in (0, 3):
        for path in (query_path, pool_path, qrels_path):
            path(root, "tiny", task, "train").unlink()
    write_queries(mixed_query_path(root, "tiny", "train"), queries)
    write_pool(global_pool_path(root, "train"), candidates)
    (root / "query/union_train").mkdir()
    lines = mixed_query_path(root, "tiny", "train").read_text().splitlines(keepends=True)
    (root / UNION_TRAIN).write_text("".join(lines[:2] + lines))  # upsampled: the first two come twice
    return root


def test_published_train_files_get_them_too(tmp_path):
    root = published(tmp_path / "mbeir")
    result = mine(root, tmp_path / "out", encoder=ToyEncoder(), tasks=[0], rules=Rules(2, 0, None), progress=False)
    mine(build(tmp_path / "own"), tmp_path / "plain", encoder=ToyEncoder(), rules=Rules(2, 0, None), progress=False)
    assert result["tasks"]["0"]["queries"] == 5
    assert negatives(tmp_path / "out", 0) == negatives(tmp_path / "plain", 0)
    assert negatives(tmp_path / "out", 3) == negatives(root, 3)
    union = [(query.qid, query.negatives) for query in Benchmark(tmp_path / "out").union_train()]
    assert [qid for qid, _ in union] == ["9:0", "9:1", *negatives(root, 0), *negatives(root, 3)]
    assert dict(union) == negatives(tmp_path / "plain", 0) | negatives(root, 3)
    before, after = tree(root), tree(tmp_path / "out")
    assert {name for name in before if after[name] != before[name]} == {
        "query/train/mbeir_tiny_train.jsonl",
        UNION_TRAIN,
    }


def test_the_command(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())
    arguments = ["mine", "--root", root, "--out", tmp_path / "out", "--model", "toy", "-n", "2", "--margin", "2"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0", "5", "10", "5", "0", "0"]
    assert all(len(dids) == 2 for dids in negatives(tmp_path / "out", 0).values())
    assert cli.main([*map(str, arguments), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["0"]["negatives"] == 10
    assert cli.main([*map(str, arguments), "--skip-top", "1"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert cli.main(["mine", "--root", str(root), "--out", str(tmp_path / "x"), "--run-dir", str(tmp_path)]) == 2
    assert "no such run file" in capsys.readouterr().err
