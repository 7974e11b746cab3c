"""Late interaction: MaxSim against a slow version, the content's tokens without the prompt's, real tiny models."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puma.data.mbeir import (
    Candidate,
    Query,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import InputError, ModelError
from puma.evaluation.metrics import hit_rate_at_k
from puma.items import Item
from puma.retriever.model import Retriever
from puma.retriever.prompts import PromptFormat
from puma.search.reranking import LateInteraction, maxsim, rerank_run
from puma.search.reranking.late_interaction import content_mask
from support.plain import image

PROMPTS = {"open-quote": "open-quote", "short": "short", "recipe": PromptFormat(before="<s>", after=" now")}


@pytest.fixture(scope="module", params=sorted(PROMPTS))
def retriever(request, base):
    return Retriever.from_base(base, layers=2, prompt=PROMPTS[request.param], device="cpu")


@pytest.fixture(scope="module")
def plain(base):
    return Retriever.from_base(base, layers=2, prompt="short", device="cpu")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@given(st.integers(0, 10**6))
def test_maxsim_equals_the_slow_way(seed):
    random = np.random.default_rng(seed)
    query = unit(random.normal(size=(random.integers(1, 6), 4)))
    candidates = [unit(random.normal(size=(random.integers(1, 7), 4))) for _ in range(random.integers(1, 5))]
    slow = [np.mean([max(float(token @ other) for other in rows) for token in query]) for rows in candidates]
    np.testing.assert_allclose(maxsim(query, candidates), slow, atol=1e-6)


def test_maxsim_closed_forms():
    axes = np.eye(3)
    found = maxsim(axes[:2], [axes, axes[:1], axes[2:], -axes[:2]])
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert maxsim(axes[:1], [-axes[:1]]).tolist() == [-1.0]


@pytest.mark.parametrize("instruction", [None, "Find a picture."])
@pytest.mark.parametrize("with_instruction", [False, True])
def test_the_contents_own_tokens_are_separated_from_the_prompts(retriever, instruction, with_instruction):
    inputs, tokenizer = retriever.inputs, retriever.processor.tokenizer
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    for item in (Item(text="a red fox"), Item(image=image(0)), Item(text="a red fox", image=image(0))):
        ids = inputs.features([item], instruction)["input_ids"][0]
        mask = content_mask(inputs, item, instruction, ids, with_instruction=with_instruction)
        own = ids[torch.from_numpy(mask)]
        kept = tokenizer.decode([int(token) for token in own if token != image_id]).replace('"', "")
        words = (instruction if with_instruction and instruction else "") + (item.text or "")
        assert kept.replace(" ", "") == words.replace(" ", "")
        assert int((own == image_id).sum()) == (4 if item.image is not None else 0)
        assert not mask[-1]  # [RET] is the first stage's


def test_states_are_those_after_the_final_norm_whatever_the_batch(plain):
    items = [Item(text="a red fox"), Item(text="x"), Item(image=image(0)), Item(text="blue", image=image(1))]
    together = LateInteraction(plain).token_states(items, "Find a picture.")
    for item, rows in zip(items, together, strict=True):
        (alone,) = LateInteraction(plain, batch_size=1).token_states([item], "Find a picture.")
        np.testing.assert_allclose(rows, alone, atol=1e-5)
        features = plain.inputs.features([item], "Find a picture.")
        with torch.inference_mode():
            hidden = plain.model(**features, use_cache=False).last_hidden_state[0]
        mask = content_mask(plain.inputs, item, "Find a picture.", features["input_ids"][0])
        np.testing.assert_allclose(rows, hidden[torch.from_numpy(mask)].numpy(), atol=1e-5)
        assert rows.dtype == np.float32


def test_an_item_is_nearest_to_itself_and_equal_items_tie(plain):
    reranker = LateInteraction(plain)
    items = [Item(text="a red fox"), Item(text="blue heart"), Item(text="a red fox"), Item(image=image(0))]
    scores = reranker.rerank(items[0], None, items)
    assert (scores.dtype, scores.shape) == (np.float32, (4,))
    assert scores[0] == scores[2] == 1.0
    assert scores[1] < 1
    assert scores[3] < 1
    assert reranker.rerank(items[0], None, []).shape == (0,)


def test_the_instructions_tokens_count_if_switched_on(plain):
    query, candidates = Item(text="fox"), [Item(text="a red fox"), Item(text="Find a picture.")]
    out, within = LateInteraction(plain), LateInteraction(plain, instruction_tokens=True)
    assert len(within.token_states([query], "Find a picture.")[0]) > len(
        out.token_states([query], "Find a picture.")[0]
    )
    assert not np.allclose(
        out.rerank(query, "Find a picture.", candidates), within.rerank(query, "Find a picture.", candidates)
    )
    assert np.array_equal(out.rerank(query, None, candidates), within.rerank(query, None, candidates))


def test_the_common_part_can_be_taken_away(plain):
    reranker = LateInteraction(plain)
    items = [Item(text=text) for text in ("a red fox", "blue heart", "cat dog")]
    raw = reranker.rerank(items[0], None, items)
    mean = reranker.fit_mean(items)
    np.testing.assert_allclose(mean, np.concatenate(reranker.token_states(items)).mean(0), atol=1e-6)
    centred = reranker.rerank(items[0], None, items)
    assert centred[0] == 1.0
    assert centred[1:].mean() < raw[1:].mean()


def test_known_items_are_computed_once_and_the_oldest_forgotten(plain, tmp_path):
    image(0).save(tmp_path / "a.png")
    items = [Item(text="a red fox"), Item(image=tmp_path / "a.png"), Item(image=image(1))]
    reranker = LateInteraction(plain)
    first = reranker.rerank(items[0], None, items)
    (tmp_path / "a.png").unlink()
    assert np.array_equal(reranker.rerank(items[0], None, items), first)  # read from what was kept
    small = LateInteraction(plain, cache_bytes=1)
    assert np.array_equal(small.rerank(items[0], None, [items[0], items[2]]), first[[0, 2]])
    assert small._size == 0


def test_faults(plain, monkeypatch):
    with pytest.raises(InputError, match="batch_size=0"):
        LateInteraction(plain, batch_size=0)
    with pytest.raises(InputError, match="mean must be"):
        LateInteraction(plain, mean=np.zeros(3))
    with pytest.raises(InputError, match="at least one item"):
        LateInteraction(plain).fit_mean([])
    ids = plain.inputs.features([Item(text="fox")])["input_ids"][0]
    for wrong in (ids[1:], ids + 1, torch.cat([ids, ids])):
        with pytest.raises(ModelError, match="not those of the prompt"):
            content_mask(plain.inputs, Item(text="fox"), None, wrong)


def test_a_run_is_reranked_on_a_benchmark(plain, tmp_path):
    texts = ["a red fox", "blue heart", "cat dog", "red cat"]
    write_pool(
        pool_path(tmp_path, "tiny", 1, "test"), [Candidate(f"9:{n}", t, None, "text") for n, t in enumerate(texts)]
    )
    queries = [Query(f"9:{n + 10}", text, None, "text", (f"9:{n}",), (), 1) for n, text in enumerate(texts)]
    write_queries(query_path(tmp_path, "tiny", 1, "test"), queries)
    qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in queries}
    write_qrels(qrels_path(tmp_path, "tiny", 1, "test"), qrels, 1)
    write_instructions(instructions_path(tmp_path), [("text", "text", "tiny", 9, ["Find a text."])])
    worst = {q.qid: {f"9:{n}": (0.0 if q.positives == (f"9:{n}",) else 0.5) for n in range(4)} for q in queries}
    assert hit_rate_at_k(qrels, worst, 1) == 0
    # Without the instruction's part the query's states are nearly its own text's, so the second stage finds it again.
    after = rerank_run(LateInteraction(plain), tmp_path, worst, 1, weight=1.0)
    assert hit_rate_at_k(qrels, after, 1) >= 0.75
    assert rerank_run(LateInteraction(plain), tmp_path, worst, 1, weight=0.0) == worst
    with pytest.raises(InputError, match="pool='wide'"):
        rerank_run(LateInteraction(plain), tmp_path, worst, 1, pool="wide")
