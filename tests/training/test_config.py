"""Settings: every fault at once, with its key, its value and the remedy."""

from dataclasses import asdict, fields, replace

import pytest

from puma.errors import ConfigError
from puma.losses import LOSSES
from puma.training.config import FREE, TrainConfig
from puma.training.run_folder import HARMLESS


def test_every_fault_of_a_configuration_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict({"stage": "third", "batch_size": 1, "warmup": 2, "lerning_rate": 1, "margin": -0.1})
    for word in ("third", "batch_size=1", "warmup=2", "lerning_rate", "margin=-0.1"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": "triplet"}, "loss='triplet': give one of ('mac'"),
        ({"distillation": "kl"}, "distillation='kl'"),
        ({"teacher": "big"}, "teacher='big': give one of ('store', 'shared', 'all-minilm-l6-v2'), or the path of"),
        ({"distillation_temperature": 0.0}, "distillation_temperature=0.0: give a positive number"),
        ({"distillation_centre": "student"}, "distillation_centre='student': give one of ('none', 'teacher', 'both')"),
        ({"distillation_within": "task"}, "distillation_within='task': give one of ('batch', 'modality')"),
        ({"distillation_within": "modality", "distillation": "cosine"}, "distillation='cosine' give 'batch'"),
        ({"distillation_map": True, "teacher": "shared"}, "distillation_map=True: with teacher='shared' give false"),
        ({"items_only": True}, "items_only=True: reads items without pairs, so it needs stage distil"),
        (
            {"items_only": True, "stage": "distil", "distillation_weight": 1.0, "contrastive_weight": 0.5},
            "contrastive_weight 0",
        ),
        ({"contrastive_weight": -1.0}, "contrastive_weight=-1.0: give at least 0"),
        ({"teacher": "shared", "lora_rank": 0}, "lora_rank=0: with teacher='shared'"),
        ({"teacher": "shared", "projector_rate": 0.1}, "projector_rate=0.1: with teacher='shared'"),
        ({"modality_dropout": 1.1}, "modality_dropout=1.1"),
        ({"hard_negatives": -1}, "hard_negatives=-1"),
        ({"grad_cache": 2.5}, "grad_cache=2.5: give a whole number"),
        ({"workers": True}, "workers=True: give a whole number"),
        ({"learning_rate": "3e-4"}, "learning_rate='3e-4': give a number (in YAML"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"epochs": 0.0}, "epochs=0.0"),
        ({"symmetric": 1}, "symmetric=1: give true or false"),
        ({"precision": None}, "precision=None: give a string"),
        ({"base_precision": "half"}, "base_precision='half': give one of ('auto', 'fp32', 'bf16', '4bit')"),
        ({"base_precision": "bf16", "lora_rank": 0}, "base_precision='bf16': with lora_rank=0 the base itself"),
        ({"base_precision": "4bit", "precision": "fp32"}, "base_precision='4bit': with precision='fp32'"),
        ({"report_to": "paper"}, "report_to='paper': give one of ('none', 'tensorboard', 'wandb', 'trackio')"),
        ({"patience": 2}, "patience=2: stops after evaluations without a gain: give eval_every"),
        ({"accumulate": 0}, "accumulate=0: give at least 1"),
        ({"eval_every": -1}, "eval_every=-1"),
        ({"eval_queries": 1.5}, "eval_queries=1.5: give a whole number"),
        ({"keep_best": "yes"}, "keep_best='yes': give true or false"),
        ({"max_unreadable": 2}, "max_unreadable=2: give a number in [0, 1]"),
        ({"loss": "splitmac"}, "loss='splitmac': give one of ('mac', 'split-mac'"),
        ({"loss": "split-mac", "other_weight": -1}, "other_weight=-1: give at least 0"),
        ({"loss": "split-mac", "other_weight": float("nan")}, "other_weight=nan: give a number"),
        ({"loss": "mac", "other_weight": 0.3}, "other_weight=0.3: only loss='split-mac' has a second term"),
        ({"workers": -2}, "workers=-2: give a whole number of at least 0, or -1"),
    ],
)
def test_a_fault_tells_key_value_and_remedy(values, said):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(values)
    assert said in str(caught.value)


def test_a_wrong_type_hides_no_other_fault():
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict({"steps": "many", "epochs": -1, "warmup": "long", "decay": -1})
    assert all(word in str(caught.value) for word in ("steps='many'", "warmup='long'", "decay=-1"))


def test_defaults_are_the_papers_second_stage_but_for_the_loss_and_plain_values():
    config = TrainConfig()
    assert (config.loss, config.margin, config.hard_negatives, config.grad_cache) == ("split-mac", None, 0, 0)
    assert (config.temperature, config.decay, config.other_weight, config.any_share) == (0.03, 0.5, 0.5, 0.0)
    assert (config.teacher, config.modality_dropout) == ("store", 0.0)
    assert TrainConfig.from_dict(asdict(config)) == config
    for loss in LOSSES:
        assert replace(config, loss=loss).loss == loss
    assert replace(config, margin=0.1, learning_rate=1).margin == 0.1


def test_a_folder_as_teacher_has_a_slash():
    alone = {"stage": "distil", "items_only": True, "contrastive_weight": 0.0, "distillation_weight": 1.0}
    for teacher in ("./deep", "runs/deep", "all-minilm-l6-v2", "store"):
        assert TrainConfig(**alone, teacher=teacher).teacher == teacher
    with pytest.raises(ConfigError, match="items_only"):
        TrainConfig(**alone, teacher="shared")


def test_settings_that_may_change_while_a_run_goes_on_are_settings():
    assert set(FREE) <= {field.name for field in fields(TrainConfig)}
    assert set(HARMLESS) <= set(FREE)


def test_every_setting_is_described():
    described = TrainConfig.__doc__.split("Args:")[1]
    for field in fields(TrainConfig):
        assert field.name in described
