"""Our figures against others': trec_eval's own code (pytrec_eval), ranx, and UniIR's counting rule written out slowly.

Theirs break ties by a rule of their own (trec_eval by document id, descending; ranx by where its sort leaves them). So:
without ties all must be equal to 1e-12; with ties ours must equal theirs after the ties are broken against the run, and
never be above theirs as it is.
"""

import json

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.data.mbeir import qrels_path, read_qrels
from puma.evaluation.mbeir import evaluate, evaluate_runs
from puma.evaluation.metrics import hit_rate_at_k, mrr_at_k, ndcg_at_k, recall_at_k
from puma.evaluation.runs import read_run
from puma.evaluation.stored.writing import write_embeddings
from support.benchmarks import named_tasks
from support.encoders import NamedEncoder

KS = (1, 3, 5, 10)
OURS = {"hit": hit_rate_at_k, "recall": recall_at_k, "ndcg": ndcg_at_k, "mrr": mrr_at_k}


@st.composite
def judged_runs(draw, ties):
    """Qrels with grades 0 to 3 and at least one positive each, and a run in which some queries, and some positives, are
    missing. Scores are distinct without ties, of five values with them."""
    queries = draw(st.integers(1, 5))
    documents = [f"9:{n}" for n in range(draw(st.integers(2, 14)))]
    qrels, run = {}, {}
    for n in range(queries):
        grades = draw(st.lists(st.integers(0, 3), min_size=len(documents), max_size=len(documents)))
        grades[draw(st.integers(0, len(documents) - 1))] = draw(st.integers(1, 3))
        judged = draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
        qrels[f"q{n}"] = {d: g for d, g, keep in zip(documents, grades, judged, strict=True) if keep or g > 0}
        shown = draw(st.lists(st.sampled_from(documents), unique=True, max_size=len(documents)))
        values = (
            range(len(shown))
            if not ties
            else draw(st.lists(st.integers(-2, 2), min_size=len(shown), max_size=len(shown)))
        )
        if shown:
            run[f"q{n}"] = {did: value / 8 for did, value in zip(shown, values, strict=True)}
    return qrels, run


def ours(qrels, run):
    return {f"{name}@{k}": metric(qrels, run, k) for name, metric in OURS.items() for k in KS}


def trec_eval(qrels, run):
    """trec_eval's figures; a query that the run lacks counts 0 (trec_eval leaves it out unless -c is given)."""
    cuts = ",".join(map(str, KS))
    measures = {f"success.{cuts}", f"recall.{cuts}", f"ndcg_cut.{cuts}", "recip_rank"}
    rows = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    names = {"hit": "success", "recall": "recall", "ndcg": "ndcg_cut"}
    found = {
        f"{ours}@{k}": sum(row[f"{theirs}_{k}"] for row in rows.values()) / len(qrels)
        for ours, theirs in names.items()
        for k in KS
    }
    for k in KS:  # its reciprocal rank has no depth
        values = [row["recip_rank"] if row["recip_rank"] * k >= 1 - 1e-9 else 0.0 for row in rows.values()]
        found[f"mrr@{k}"] = sum(values) / len(qrels)
    return found


def broken_against_us(qrels, run):
    """The same order with every tie broken for the worse: wrong documents first, then the lower grade."""
    return {
        qid: {
            did: float(-place)
            for place, did in enumerate(sorted(row, key=lambda did: (-row[did], qrels[qid].get(did, 0))))
        }
        for qid, row in run.items()
    }


@given(judged_runs(ties=False))
@settings(max_examples=150, deadline=None)
def test_without_ties_all_figures_equal_trec_evals(case):
    qrels, run = case
    assert ours(qrels, run) == pytest.approx(trec_eval(qrels, run), abs=1e-12)


@given(judged_runs(ties=True))
@settings(max_examples=150, deadline=None)
def test_with_ties_ours_are_the_worst_order_and_never_above_trec_evals(case):
    qrels, run = case
    own, theirs = ours(qrels, run), trec_eval(qrels, run)
    assert own == pytest.approx(trec_eval(qrels, broken_against_us(qrels, run)), abs=1e-12)
    assert all(own[name] <= theirs[name] + 1e-12 for name in own)


def test_a_tie_is_where_the_rules_differ():
    qrels, run = {"q": {"9:2": 1}}, {"q": {"9:1": 0.5, "9:2": 0.5}}
    assert trec_eval(qrels, run)["hit@1"] == 1.0  # by document id, descending
    assert ours(qrels, run)["hit@1"] == 0.0


def ranx_figures(ranx, qrels, run):
    names = {"hit": "hit_rate", "recall": "recall", "ndcg": "ndcg", "mrr": "mrr"}
    measures = {f"{own}@{k}": f"{theirs}@{k}" for own, theirs in names.items() for k in KS}
    found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(measures.values()), make_comparable=True)
    return {own: float(found[name]) for own, name in measures.items()}


@pytest.mark.slow  # numba compiles for some twenty seconds
@pytest.mark.filterwarnings("ignore:unsafe cast from uint64 to int64")
@pytest.mark.parametrize("ties", [False, True])
def test_all_figures_equal_ranxs(ties):
    ranx = pytest.importorskip("ranx", reason="ranx and numba come with the dev extra; trec_eval is checked above")
    random = np.random.default_rng(0)
    documents = [f"9:{n}" for n in range(15)]
    qrels, run = {}, {}
    for n in range(100):
        picked = random.permutation(documents)[: random.integers(1, 6)]
        qrels[f"q{n}"] = {str(did): int(random.integers(1, 4)) for did in picked}
        shown = random.permutation(documents)[: random.integers(1, 16)]
        values = random.integers(0, 4, len(shown)) if ties else random.permutation(len(shown))
        run[f"q{n}"] = {str(did): float(value) for did, value in zip(shown, values, strict=True)}
    del run["q5"]
    own = ours(qrels, run)
    assert own == pytest.approx(ranx_figures(ranx, qrels, broken_against_us(qrels, run)), abs=1e-12)
    if ties:
        as_is = ranx_figures(ranx, qrels, run)
        assert all(own[name] <= as_is[name] + 1e-12 for name in own)


def uniir(qrels, retrieved, k):
    """UniIR's counting rule (its retriever's Recall@k), said slowly: a query whose first k hold any positive counts 1,
    the mean over the queries that were retrieved for."""
    counted = []
    for qid, dids in retrieved.items():
        hit = 0.0
        for did in dids[:k]:
            if qrels[qid].get(did, 0) > 0:
                hit = 1.0
        counted.append(hit)
    return sum(counted) / len(counted)


@given(judged_runs(ties=False), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_the_hit_rate_is_what_uniir_counts_as_recall(case, k):
    qrels, run = case
    complete = {qid: row for qid, row in qrels.items() if qid in run}
    if complete:
        retrieved = {qid: sorted(run[qid], key=lambda did, qid=qid: -run[qid][did]) for qid in complete}
        assert hit_rate_at_k(complete, run, k) == pytest.approx(uniir(complete, retrieved, k), abs=1e-12)


def uniirs_way(folder, dataset, task, pool, k):
    """From UniIR's files to its retrieved ids, slowly: unit rows, inner products, best first, ids from integers."""
    name = f"mbeir_{dataset}_task{task}_test"
    stem = "union" if pool == "global" else f"{dataset}_task{task}_test"
    arrays = [
        np.load(folder / path)
        for path in (
            f"test/{name}_embed.npy",
            f"test/{name}_ids.npy",
            f"cand_pool/mbeir_{stem}_cand_pool_embed.npy",
            f"cand_pool/mbeir_{stem}_cand_pool_ids.npy",
        )
    ]
    queries, qids, candidates, dids = (a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    found = {}
    for row, number in zip(queries @ candidates.T, qids.tolist(), strict=True):
        best = dids[np.argsort(-row)][:k].tolist()
        found[f"{number // 500_000}:{number % 500_000}"] = [f"{n // 10_000_000}:{n % 10_000_000}" for n in best]
    return found


def test_uniirs_tools_count_our_vectors_as_we_do(tmp_path):
    root = named_tasks(tmp_path / "root")
    tables = evaluate(NamedEncoder(), root, ks=KS, progress=False)
    write_embeddings(NamedEncoder(), root, tmp_path / "stored", dtype="float32", progress=False)
    for task in (0, 3, 7):
        qrels = read_qrels(qrels_path(root, "tiny", task, "test"))
        for pool, table in (("local", tables[str(task)]), ("global", tables[str(task)]["global"])):
            retrieved = uniirs_way(tmp_path / "stored", "tiny", task, pool, max(KS))
            for k in KS:
                assert table[f"hit_rate@{k}"] == pytest.approx(uniir(qrels, retrieved, k), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_tables_equal_trec_eval_on_our_own_run_files(tmp_path, decimals):
    root = named_tasks(tmp_path / "root", tasks=(0, 1, 4), queries=20)
    encoder = NamedEncoder(dim=6 if decimals == 0 else 16, decimals=decimals)
    tables = evaluate(encoder, root, ks=KS, run_dir=tmp_path / "runs", progress=False)
    tied = 0
    for task in (0, 1, 4):
        qrels = read_qrels(qrels_path(root, "tiny", task, "test"))
        for pool, table in (("local", tables[str(task)]), ("global", tables[str(task)]["global"])):
            run = read_run(tmp_path / "runs" / f"task{task}_test_{pool}.run")
            tied += sum(len(row) - len(set(row.values())) for row in run.values())
            theirs = trec_eval(qrels, broken_against_us(qrels, run))
            for k in KS:
                assert table[f"hit_rate@{k}"] == pytest.approx(theirs[f"hit@{k}"], abs=1e-12)
                assert table[f"recall@{k}"] == pytest.approx(theirs[f"recall@{k}"], abs=1e-12)
            assert table["ndcg@10"] == pytest.approx(theirs["ndcg@10"], abs=1e-12)
            assert table["mrr@10"] == pytest.approx(theirs["mrr@10"], abs=1e-12)
    assert (tied > 0) == (decimals == 0)  # one case has ties, the other none
    scored = evaluate_runs(tmp_path / "runs", root, ks=KS)
    for task, table in tables.items():
        for key in (key for key in table if "@" in key):
            assert scored[task][key] == table[key]
            assert scored[task]["global"][key] == table["global"][key]
    assert json.loads(json.dumps(tables)) == tables  # and any program reads them
