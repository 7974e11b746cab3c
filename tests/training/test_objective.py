"""The trainer's object: masks and hard negatives as the pure loss would have them, shares, shared teacher, faults."""

import pytest
import torch

from puma.errors import InputError
from puma.losses import (
    LOSS_FUNCTIONS,
    LOSSES,
    distillation_loss,
    hard_temperature,
    mac_loss,
    negative_shares,
    split_losses,
    split_mac_loss,
)
from puma.losses.batch_keys import ANY
from puma.training.config import TrainConfig
from puma.training.distillation_settings import StudentMap
from puma.training.objective import RetrievalObjective

DIM = 5


class Table(torch.nn.Module):
    """A model that looks its states up: item n's state is row n."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(0)))
        self.asked = []

    def forward(self, chunk):
        self.asked.append(chunk["item"].tolist())
        return {"token_embeddings": self.rows[chunk["item"]][:, None]}


def chunks_of(q, hard, *, key=None, content=None, known=None, modality=None, **more):
    """Two chunks in a shuffled order."""
    c = q + hard
    order = torch.randperm(q + c, generator=torch.Generator().manual_seed(1))
    chunks = [
        {
            "item": part,
            "attention_mask": torch.ones(len(part), 1),
            "puma_rows": part,
            "puma_with_image": torch.zeros(len(part), dtype=torch.bool),
        }
        for part in order.tensor_split(2)
    ]
    modality = torch.arange(c) % 2 if modality is None else modality
    key = torch.arange(c) if key is None else key
    chunks[0] |= {
        "puma_target_modality": modality[:q],
        "puma_candidate_modality": modality,
        "puma_candidate_key": key,
        "puma_content_key": torch.arange(c) if content is None else content,
        "puma_known": key[:q, None] if known is None else known,
        **{f"puma_{name}": value for name, value in more.items()},
    }
    return chunks


def parts_of(model, q):
    return model.rows[:q], model.rows[q:]


@pytest.mark.parametrize("name", LOSSES)
def test_hard_negatives_are_candidates_of_every_query(name):
    model = Table(4 + 7)
    objective = RetrievalObjective(model, temperature=0.2, decay=0.8, loss=name)
    objective.progress = 0.4
    modality = torch.arange(7) % 2
    expected = LOSS_FUNCTIONS[name](
        *parts_of(model, 4), modality[:4], modality, temperature=0.2, hard_temperature=hard_temperature(0.2, 0.8, 0.4)
    )
    terms = objective(chunks_of(4, 3))
    assert terms.keys() == {"contrastive"}
    assert float(terms["contrastive"].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_masks_of_all_kinds_meet_in_the_loss():
    """Query 0 knows candidate 1; candidates 2 and 5 have one content; candidate 4 is candidate 3 again; a margin."""
    model = Table(4 + 6)
    facts = {
        "key": torch.tensor([0, 1, 2, 3, 3, 5]),
        "content": torch.tensor([0, 1, 2, 3, 3, 2]),
        "known": torch.tensor([[0, 1], [1, -1], [2, -1], [3, -1]]),
    }
    exclude = torch.zeros(4, 6, dtype=torch.bool)
    exclude[0, 1] = exclude[2, 5] = exclude[3, 4] = True
    exclude[:, 4] = True  # a repeat counts once
    modality = torch.arange(6) % 2
    options = {"temperature": 0.2, "hard_temperature": 0.2, "exclude": exclude, "margin": 0.1}
    args = (*parts_of(model, 4), modality[:4], modality)
    objective = RetrievalObjective(model, temperature=0.2, margin=0.1)
    loss = float(objective(chunks_of(4, 2, **facts))["contrastive"].detach())
    assert loss == pytest.approx(float(mac_loss(*args, **options).detach()), rel=1e-6)
    assert loss != pytest.approx(float(mac_loss(*args, **{**options, "margin": None}).detach()), rel=1e-3)
    shares = negative_shares(*args, **options)
    assert numbers(objective.last_figures) == pytest.approx(
        {f"share_{key}": value for key, value in numbers(shares).items()}
    )
    assert sum(numbers(objective.last_figures).values()) == pytest.approx(1.0)
    split = RetrievalObjective(model, temperature=0.2, margin=0.1, loss="split-mac", other_weight=0.5)
    loss = float(split(chunks_of(4, 2, **facts))["contrastive"].detach())
    assert loss == pytest.approx(float(split_mac_loss(*args, **options, other_weight=0.5).detach()), rel=1e-6)
    parts = numbers(split_losses(*args, **options, other_weight=0.5))
    assert numbers(split.last_figures) == pytest.approx({f"{key}_loss": value for key, value in parts.items()})
    assert min(parts.values()) > 0


def numbers(figures):
    return {key: float(value) for key, value in figures.items()}


@pytest.mark.parametrize("name", ["mac", "split-mac"])
def test_both_views_agree_on_a_query_that_asks_for_no_modality(name):
    model = Table(4 + 6)
    chunks = chunks_of(4, 2)
    codes = chunks[0]["puma_candidate_modality"]
    targets = torch.tensor([0, ANY, 0, 1])
    chunks[0]["puma_target_modality"] = targets
    objective = RetrievalObjective(model, temperature=0.3, decay=0.8, symmetric=True, loss=name)
    objective.progress = 1.0
    queries, candidates = parts_of(model, 4)
    options = {"temperature": 0.3, "hard_temperature": hard_temperature(0.3, 0.8, 1.0)}
    forward = LOSS_FUNCTIONS[name](queries, candidates, targets, codes, **options)
    backward = LOSS_FUNCTIONS[name](candidates[:4], queries, codes[:4], targets, **options)
    loss = float(objective(chunks)["contrastive"].detach())
    assert loss == pytest.approx(float((forward + backward).detach()) / 2, rel=1e-6)
    asked = LOSS_FUNCTIONS[name](queries, candidates, codes[:4], codes, **options)
    assert float(forward.detach()) != pytest.approx(float(asked.detach()), rel=1e-4)


def test_a_repeated_positive_keeps_its_own_view():
    """Two queries share a positive; seen from it, its own query is right and the other is masked, not all of them."""
    model = Table(3 + 3)
    same = torch.tensor([0, 1, 0])
    objective = RetrievalObjective(model, temperature=0.2, symmetric=True)
    loss = objective(chunks_of(3, 0, key=same, content=same))["contrastive"]
    queries, candidates = parts_of(model, 3)
    codes = torch.arange(3) % 2
    shared = torch.tensor([[False, False, True], [False, False, False], [True, False, False]])
    once = shared | torch.tensor([False, False, True])
    options = {"temperature": 0.2, "hard_temperature": 0.2}
    forward = mac_loss(queries, candidates, codes, codes, exclude=once, **options)
    backward = mac_loss(candidates, queries, codes, codes, exclude=shared, **options)
    assert float(loss.detach()) == pytest.approx(float((forward + backward).detach()) / 2, rel=1e-6)


def test_a_querys_own_positive_among_its_hard_negatives_is_none():
    """What UniIR's hard-negative path gets wrong: here it adds nothing, neither to the loss nor to the gradient."""
    with_it, without = Table(2 + 3), Table(2 + 2)
    with_it.rows.data[4] = with_it.rows.data[2]
    without.rows.data.copy_(with_it.rows.data[:4])
    key = torch.tensor([0, 1, 0])
    for model, chunks in ((with_it, chunks_of(2, 1, key=key, content=key)), (without, chunks_of(2, 0))):
        codes = torch.zeros_like(chunks[0]["puma_candidate_modality"])
        chunks[0] |= {"puma_candidate_modality": codes, "puma_target_modality": codes[:2]}
        RetrievalObjective(model, temperature=0.2)(chunks)["contrastive"].backward()
    torch.testing.assert_close(with_it.rows.grad[:4], without.rows.grad)
    assert torch.equal(with_it.rows.grad[4], torch.zeros(DIM))


def test_stored_targets_cover_queries_positives_and_hard_negatives():
    model = Table(2 + 3)
    teacher = torch.randn(5, DIM)
    taught = torch.tensor([True, False, True, False, True])
    objective = RetrievalObjective(model, temperature=0.2, distillation_weight=0.5)
    terms = objective(chunks_of(2, 1, teacher=teacher, taught=taught))
    expected = 0.5 * distillation_loss(model.rows[taught], teacher[taught])
    assert float(terms["distillation"].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    with pytest.raises(InputError, match="carries no teacher states"):
        objective(chunks_of(2, 1))


@pytest.mark.parametrize("kind", ["relational", "row-softmax"])
def test_within_a_modality_queries_for_it_and_its_candidates_are_compared(kind):
    """By hand: queries are grouped by what they ask for, candidates by what they are; others are not compared."""
    model = Table(4 + 6)
    modality = torch.tensor([0, 1, 0, 1, 1, 0])
    teacher, taught = torch.randn(10, 3), torch.tensor([True] * 9 + [False])
    objective = RetrievalObjective(
        model,
        temperature=0.2,
        distillation_weight=0.5,
        distillation=kind,
        distillation_within="modality",
        distillation_temperature=0.1,
        distillation_centre="both",
    )
    terms = objective(chunks_of(4, 2, modality=modality, teacher=teacher, taught=taught))
    groups = torch.cat([modality[:4], modality])
    options = {"temperature": 0.1, "centre": "both"}
    expected = distillation_loss(model.rows[:9], teacher[:9], kind, groups=groups[:9], **options)
    assert float(terms["distillation"].detach()) == pytest.approx(0.5 * float(expected.detach()), rel=1e-5)
    everywhere = distillation_loss(model.rows[:9], teacher[:9], kind, **options)
    assert float(everywhere.detach()) != pytest.approx(float(expected.detach()), rel=1e-3)


def test_the_map_is_between_student_and_teacher_alone():
    model, linear = Table(2 + 2), StudentMap(DIM, 3)
    with torch.no_grad():
        linear.weight.normal_(generator=torch.Generator().manual_seed(4))
    teacher, taught = torch.randn(4, 3), torch.ones(4, dtype=torch.bool)
    options = {"temperature": 0.2, "distillation_weight": 0.5, "distillation": "cosine"}
    terms = RetrievalObjective(model, **options, student_map=linear)(chunks_of(2, 0, teacher=teacher, taught=taught))
    expected = distillation_loss(model.rows @ linear.weight.T, teacher, "cosine")
    assert float(terms["distillation"].detach()) == pytest.approx(0.5 * float(expected.detach()), rel=1e-6)
    plain = RetrievalObjective(model, temperature=0.2)(chunks_of(2, 0))
    assert torch.equal(plain["contrastive"], terms["contrastive"])
    sum(terms.values()).backward()
    assert linear.weight.grad.abs().max() > 0
    with pytest.raises(InputError, match="5 features, the teacher's 3"):
        RetrievalObjective(model, **options)(chunks_of(2, 0, teacher=teacher, taught=taught))


def test_a_map_starts_as_the_identity_and_stays_fp32_under_autocast():
    states = torch.randn(2, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(StudentMap(DIM, DIM)(states), states)
    assert torch.equal(StudentMap(DIM, 3)(states), states[:, :3])
    wider = StudentMap(DIM, 7)(states)
    assert torch.equal(wider[:, :DIM], states)
    assert not wider[:, DIM:].any()


def test_without_a_contrastive_weight_only_the_teacher_is_followed():
    model = Table(2 + 2)
    teacher, taught = torch.randn(4, DIM), torch.ones(4, dtype=torch.bool)
    objective = RetrievalObjective(model, temperature=0.2, contrastive_weight=0.0, distillation_weight=0.5)
    terms = objective(chunks_of(2, 0, teacher=teacher, taught=taught))
    assert terms.keys() == {"distillation"}
    assert objective.last_figures == {}


class Shared(torch.nn.Module):
    """A teacher that shares the student's rows: double of them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.both, self.alone = model, 0, 0

    def states(self, chunk):
        assert not any(key.startswith("puma_") for key in chunk)
        self.both += 1
        student = self.model(chunk)["token_embeddings"][:, 0]
        return student, 2 * student

    def student_states(self, chunk):
        self.alone += 1
        return self.model(chunk)["token_embeddings"][:, 0]


@pytest.mark.parametrize("cache", [0, 3])
def test_shared_teacher_sends_no_gradient_and_is_asked_once(cache):
    model = Table(3 + 4)
    shared = Shared(model)
    objective = RetrievalObjective(
        model, temperature=0.2, contrastive_weight=0.0, distillation_weight=1.0, shared_teacher=shared, grad_cache=cache
    )
    terms = objective(chunks_of(3, 1))
    sum(terms.values()).backward()
    # mean of (rows - 2 rows)^2 with the teacher held: the gradient is -2 rows / count
    torch.testing.assert_close(model.rows.grad, -2 * model.rows.detach() / model.rows.numel())
    assert (shared.both, shared.alone) == ((3, 3) if cache else (2, 0))
    assert list(objective.state_dict()) == ["model.rows"], "the trainer would see its weights twice"


@pytest.mark.parametrize("cache", [0, 3])
def test_a_share_of_the_chunks_is_taught_and_all_are_in_turn(cache):
    taught = torch.zeros(3 + 4, dtype=torch.bool)
    for seed in range(12):
        torch.manual_seed(seed)
        model = Table(3 + 4)
        shared = Shared(model)
        objective = RetrievalObjective(
            model,
            temperature=0.2,
            contrastive_weight=0.0,
            distillation_weight=1.0,
            shared_teacher=shared,
            teacher_share=0.5,
            grad_cache=cache,
        )
        sum(objective(chunks_of(3, 1)).values()).backward()
        here = model.rows.grad.abs().sum(1) > 0
        assert 0 < int(here.sum()) < 7
        # the mean is over the taught rows alone
        expected = -2 * model.rows.detach()[here] / (int(here.sum()) * DIM)
        torch.testing.assert_close(model.rows.grad[here], expected)
        taught |= here
    assert bool(taught.all())


def test_no_distillation_asks_no_teacher():
    model = Table(3 + 4)
    shared = Shared(model)
    RetrievalObjective(model, temperature=0.2, shared_teacher=shared)(chunks_of(3, 1))
    assert shared.both == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "triplet"}, "triplet"),
        ({"grad_cache": -1}, "grad_cache=-1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("inf"), "loss": "split-mac"}, "temperature=inf"),
        ({"decay": -0.5, "loss": "split-mac"}, "decay=-0.5"),
        ({"other_weight": -1.0, "loss": "split-mac"}, "other_weight=-1.0: give a number of at least 0"),
        ({"other_weight": float("nan"), "loss": "split-mac"}, "other_weight=nan"),
    ],
)
def test_faults_are_named_at_once(changes, said):
    with pytest.raises(InputError, match=said):
        RetrievalObjective(Table(2), **{"temperature": 0.1, **changes})


def test_a_stage_hands_all_its_settings_to_the_objective():
    settings = {
        "temperature": 0.2, "decay": 0.8, "contrastive_weight": 0.9, "distillation_weight": 0.5, "margin": 0.1,
        "distillation": "cosine", "symmetric": True, "loss": "siglip", "grad_cache": 3, "teacher_share": 0.5,
        "distillation_temperature": 0.02, "distillation_centre": "both",
    }  # fmt: skip
    objective = RetrievalObjective.from_config(Table(2), TrainConfig(**settings))
    of_states = ("grad_cache", "teacher_share")
    found = {name: getattr(objective.states if name in of_states else objective, name) for name in settings}
    assert found == settings
    split = RetrievalObjective.from_config(Table(2), TrainConfig(loss="split-mac", other_weight=0.3))
    assert (split.loss, split.other_weight) == ("split-mac", 0.3)
