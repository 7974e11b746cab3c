"""M-BEIR's names, against lists of the published folder's files."""

from pathlib import Path

from puma.data import layout
from puma.data.records import TASK_MODALITIES

NAMED = """
mbeir_cirr_task7_cand_pool.jsonl mbeir_edis_task2_cand_pool.jsonl mbeir_fashion200k_task0_cand_pool.jsonl
mbeir_fashion200k_task3_cand_pool.jsonl mbeir_fashioniq_task7_cand_pool.jsonl mbeir_infoseek_task6_cand_pool.jsonl
mbeir_infoseek_task8_cand_pool.jsonl mbeir_mscoco_task0_test_cand_pool.jsonl mbeir_mscoco_task0_val_cand_pool.jsonl
mbeir_mscoco_task3_test_cand_pool.jsonl mbeir_mscoco_task3_val_cand_pool.jsonl mbeir_nights_task4_cand_pool.jsonl
mbeir_oven_task6_cand_pool.jsonl mbeir_oven_task8_cand_pool.jsonl mbeir_visualnews_task0_cand_pool.jsonl
mbeir_visualnews_task3_cand_pool.jsonl mbeir_webqa_task1_cand_pool.jsonl mbeir_webqa_task2_cand_pool.jsonl
"""  # the local pools of the published folder, as its users' scripts list them


def test_sixteen_tasks_of_ten_data_sets():
    assert len(layout.TASKS_IN_ORDER) == len({task.label for task in layout.TASKS_IN_ORDER}) == 16
    assert {task.dataset for task in layout.TASKS_IN_ORDER} == set(layout.DATASETS)
    assert sorted(number for number, _ in layout.DATASETS.values()) == list(range(10))
    assert {task.task for task in layout.TASKS_IN_ORDER} == set(TASK_MODALITIES)
    tens = [task.label for task in layout.TASKS_IN_ORDER if task.k == 10]
    assert tens == ["fashion200k_task0", "fashion200k_task3", "fashioniq_task7"]


def test_the_local_pools_are_named_as_published():
    named = {
        layout.published_pool_path("", task, split).name for task in layout.TASKS_IN_ORDER for split in ("val", "test")
    }
    assert sorted(named) == NAMED.split()


def test_the_other_files_are_named_as_published():
    root = Path("M-BEIR")
    assert layout.query_path(root, "cirr", 7, "test") == root / "query/test/mbeir_cirr_task7_test.jsonl"
    assert layout.mixed_query_path(root, "cirr", "train") == root / "query/train/mbeir_cirr_train.jsonl"
    assert layout.qrels_path(root, "oven", 8, "val") == root / "qrels/val/mbeir_oven_task8_val_qrels.txt"
    assert layout.mixed_qrels_path(root, "oven", "train") == root / "qrels/train/mbeir_oven_train_qrels.txt"
    assert layout.global_pool_path(root, "test") == root / "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
    assert layout.UNION_TRAIN == "query/union_train/mbeir_union_up_train.jsonl"
    assert layout.instructions_path(root) == root / "instructions/query_instructions.tsv"
