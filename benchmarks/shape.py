"""What the method costs at a base's true shape: randomly initialised models, no weights, no data.

    python benchmarks/shape.py                    one GPU: the true Qwen2-VL-7B and 2B shapes, some eight minutes
    python benchmarks/shape.py                    no GPU: the same measurements on a scaled-down shape, two minutes
    python benchmarks/shape.py --quick            seconds, for the tests; writes nothing unless --out says where

Measured on each shape: parameters; a step of either stage (seconds, peak memory) as PUMA takes it, with the teacher's
states read from a store or from the shared backbone, against a second full model as teacher (the authors' way) and
against the unpruned model; embedding throughput by depth. The estimate that ``puma train --dry-run`` gives stands
beside. Weights are random: speed and memory do not depend on them.

What PUMA itself does is measured first, on every shape; then what it is compared with.

Figures go to ``benchmarks/results/shape.json``, one entry a kind of device, after every measurement, so that a run that
is cut off leaves what it had. A measurement that runs out of memory says so and the next goes on.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from puma.cli.commands._shared import quiet_libraries
from puma.pruning import count_parameters, prune
from puma.pruning.shapes import KNOWN, config_from, config_of, empty_model, image_shape
from puma.retriever.pooling import last_token_state
from puma.storage.folders import write_json
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.recipes.costs import RULE, Workload, stage_cost, step_chunks
from puma.training.recipes.recipe import Recipe, read_recipe
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.shared import SharedTeacher
from puma.training.trainable import choose_trainable

RESULTS = Path(__file__).parent / "results" / "shape.json"


@dataclass(frozen=True)
class Shape:
    """A shape to measure: its configuration, the recipe's settings, and the depths to embed at."""

    name: str
    config: Any
    recipe: Recipe
    layers: int
    depths: tuple[int, ...]
    encode_batch: int


def main() -> None:
    quiet_libraries()
    options = arguments()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(options, device)
    found = shapes(options, device)
    for comparisons in (False, True):  # of every shape what PUMA does, before what it is compared with
        for shape in found:
            measure_shape(run, shape, comparisons=comparisons)
    run.tell()


class Run:
    """The results so far, and the time that is left."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.device, self.seed, self.steps = device, options.seed, options.steps
        self.until = time.monotonic() + options.seconds
        self.path: Path | None = options.out or (None if options.quick else RESULTS)
        self.kind = torch.device(device).type
        self.found: dict[str, Any] = {
            "machine": machine(device),
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "sentence-transformers")},
            "command": " ".join(["python", *sys.argv]),
            "seed": options.seed,
            "rule": RULE,
            "shapes": {},
        }

    def take(self, where: list[Any], row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Add a measurement, or why there is none."""
        if time.monotonic() > self.until:
            row["left_out"] = "out of time (--seconds)"
        else:
            try:
                row.update(measure())
            except torch.OutOfMemoryError:
                row["left_out"] = "out of memory"
        free(self.device)
        where.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        write_json(self.path, {**before, self.kind: self.found})

    def tell(self) -> None:
        for name, shape in self.found["shapes"].items():
            print(f"\n{name}")
            for row in shape["training"]:
                said = row.get("left_out") or (
                    f"{row['seconds_per_step']:8.3f} s/step  peak {row['peak_gib'] or '(not on a CPU)'} GiB, "
                    f"estimate {row['estimate_gib']}  {row['tflops_per_second']:8.2f} TFLOP/s"
                )
                print(f"  {row['stage']:9}{row['layers']:3} layers  teacher {row['teacher']:13}{said}")
            for row in shape["encoding"]:
                said = (
                    row.get("left_out")
                    or f"{row['texts_per_second']:9.1f} texts/s {row['pictures_per_second']:9.1f} pictures/s"
                )
                print(f"  embedding {row['layers']:2} layers  {said}")


def measure_shape(run: Run, shape: Shape, *, comparisons: bool) -> None:
    """PUMA's own steps and depth on a shape; or, as ``comparisons``, what they are held against: no teacher, a second
    model as teacher, the unpruned model, other depths."""
    rows = run.found["shapes"].setdefault(
        shape.name, {"parameters": {}, "training": [], "encoding": [], "layers": shape.layers}
    )
    whole = shape.config.get_text_config().num_hidden_layers
    distil, retrieve = shape.recipe.distil, shape.recipe.retrieve
    assert distil is not None
    if comparisons:
        depths = [depth for depth in shape.depths if depth != shape.layers]
        plan = [(distil, shape.layers, "none"), (distil, shape.layers, "second model")]
        plan += [(distil, whole, "none"), (retrieve, whole, "none")]
    else:
        depths = [shape.layers] if shape.layers in shape.depths else []
        plan = [(retrieve, shape.layers, "none"), (distil, shape.layers, "shared"), (distil, shape.layers, "store")]
        for depth in sorted({*shape.depths, shape.layers, whole}, reverse=True):
            rows["parameters"][str(depth)] = count_parameters(empty_model(shape.config, depth))
    for train, layers, teacher in plan:
        cost = stage_cost(shape.config, train, shape.recipe.workload, layers, teacher=teacher)
        row = {
            "stage": train.stage,
            "layers": layers,
            "teacher": teacher,
            "batch_size": train.batch_size,
            "items": cost.items,
            "tokens": cost.tokens,
            "trainable": cost.trainable,
            "estimate_gib": round(cost.memory["total"] / 2**30, 2),
            "estimate_tflop": round(cost.flops["total"] / 1e12, 4),
        }

        def measured(train: TrainConfig = train, layers: int = layers, teacher: str = teacher, cost: Any = cost) -> Any:
            step = training_step(shape, train, layers, teacher, run)
            seconds, peak = timed(step, run)
            rate = cost.flops["total"] / 1e12 / seconds
            return {"seconds_per_step": round(seconds, 4), "peak_gib": peak, "tflops_per_second": round(rate, 2)}

        run.take(rows["training"], row, measured)
    encoder: dict[str, Any] = {}
    for depth in sorted(depths, reverse=True):
        run.take(rows["encoding"], {"layers": depth}, lambda depth=depth: encoding(shape, depth, encoder, run))
    rows["encoding"].sort(key=lambda row: -row["layers"])
    encoder.clear()
    free(run.device)


def training_step(shape: Shape, train: TrainConfig, layers: int, teacher: str, run: Run) -> Callable[[], None]:
    """One optimisation step, ready to be called: PUMA's own objective, adapters and shared teacher."""
    torch.manual_seed(run.seed)
    train = replace(train, distillation_weight=train.distillation_weight if teacher != "none" else 0.0)
    # as training holds a base that is frozen under adapters
    held = torch.bfloat16 if getattr(train, "frozen_type", "fp32") == "bf16" else torch.float32
    model = random_model(shape.config, run.device, held)
    dual = DualDepth(model, layers) if teacher == "shared" else None
    if dual is None:
        prune(model, layers)
    holder = [SimpleNamespace(model=model.train())]
    choose_trainable(SimpleNamespace(model=model), holder, train)  # type: ignore[arg-type]
    pipeline = Pipeline(holder[0].model)
    objective = RetrievalObjective(
        pipeline,
        temperature=train.temperature,
        decay=train.decay,
        contrastive_weight=train.contrastive_weight,
        distillation_weight=train.distillation_weight,
        distillation=train.distillation,
        shared_teacher=None if dual is None else SharedTeacher(dual, pipeline),
    )
    second = None
    if teacher == "second model":
        second = Pipeline(random_model(shape.config, run.device, torch.bfloat16 if half(train) else torch.float32))
        second.requires_grad_(False).eval()
    optimiser = torch.optim.AdamW([p for p in pipeline.parameters() if p.requires_grad], lr=1e-5)
    kind = torch.device(run.device).type
    batch = make_batch(shape, train, run)

    def step() -> None:
        features = [dict(chunk) for chunk in batch]
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=half(train)):
            if teacher == "store":  # what a store is read for; the reading itself is benchmarks/distillation_step.py
                features[0].update(targets(shape, train, run))
            elif second is not None:
                features[0].update(second_states(second, batch))
            loss = sum(objective(features).values(), torch.zeros((), device=run.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pipeline.parameters(), train.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


class Pipeline(nn.Module):
    """A model as the objective asks it: features in, token states out (sentence-transformers' first module)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> dict[str, torch.Tensor]:
        inputs = {key: value for key, value in features.items() if not key.startswith("puma_") and key != "modality"}
        return {"token_embeddings": self.model(**inputs, use_cache=False).last_hidden_state}


def second_states(second: Pipeline, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The authors' teacher: a full model over queries and candidates, every step."""
    with torch.no_grad():
        states = [last_token_state(second(dict(c))["token_embeddings"], c["attention_mask"]).float() for c in batch]
    order = torch.argsort(torch.cat([chunk["puma_rows"] for chunk in batch]))
    taught = torch.cat(states)[order]
    return {"puma_teacher": taught, "puma_taught": torch.ones(len(taught), dtype=torch.bool, device=taught.device)}


def targets(shape: Shape, train: TrainConfig, run: Run) -> dict[str, torch.Tensor]:
    items = 2 * train.batch_size
    states = torch.randn(items, shape.config.get_text_config().hidden_size, dtype=torch.float16).to(run.device)
    return {
        "puma_teacher": states.float(),
        "puma_taught": torch.ones(items, dtype=torch.bool, device=run.device),
    }


def make_batch(shape: Shape, train: TrainConfig, run: Run) -> list[dict[str, Any]]:
    """A step's chunks in the collator's form: random tokens and pixels of the sizes that the estimate assumes."""
    workload, config = shape.recipe.workload, shape.config
    tokens, _ = image_shape(config, workload.image_tokens)
    generator = torch.Generator().manual_seed(run.seed)
    q = train.batch_size
    order, start, chunks = torch.randperm(2 * q, generator=generator), 0, []
    for items, _, with_image in step_chunks(train, workload, tokens):
        chunk = make_inputs(config, items - with_image, with_image, workload.text_tokens, tokens, generator)
        chunk["puma_rows"] = order[start : start + items]
        chunk["puma_with_image"] = torch.arange(items) >= items - with_image
        start += items
        chunks.append({key: value.to(run.device) for key, value in chunk.items()})
    ids = torch.arange(q)
    extra = {
        "puma_target_modality": ids % 2,
        "puma_candidate_modality": ids % 2,
        "puma_candidate_key": ids,
        "puma_content_key": ids,
        "puma_known": ids[:, None],
    }
    chunks[0].update({key: value.to(run.device) for key, value in extra.items()})
    return chunks


def make_inputs(
    config: Any, texts: int, images: int, text_tokens: int, image_tokens: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Qwen2-VL's inputs: ``texts`` rows of text, then ``images`` rows of an image and text, padded on the right."""
    n, length = texts + images, text_tokens + (image_tokens if images else 0)
    special = min(config.image_token_id, config.vision_start_token_id, config.video_token_id)
    ids = torch.randint(1, min(special, 1000), (n, length), generator=generator)
    mask = torch.ones(n, length, dtype=torch.long)
    mask[:texts, text_tokens:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if images:
        ids[texts:, 1 : 1 + image_tokens] = config.image_token_id
        ids[texts:, 0] = config.vision_start_token_id
        vision = config.vision_config
        high = max(d for d in range(1, int(image_tokens**0.5) + 1) if image_tokens % d == 0)
        merge, values = vision.spatial_merge_size, 3 * vision.temporal_patch_size * vision.patch_size**2
        grid = [1, high * merge, image_tokens // high * merge]
        batch["image_grid_thw"] = torch.tensor([grid] * images)
        batch["pixel_values"] = torch.randn(images * grid[1] * grid[2], values, generator=generator)
        batch["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return batch


def encoding(shape: Shape, depth: int, encoder: dict[str, Any], run: Run) -> dict[str, Any]:
    """Items a second at a depth; the one model is cut deeper from call to call."""
    on_gpu = run.kind == "cuda"
    if "model" not in encoder:
        torch.manual_seed(run.seed)
        encoder["model"] = random_model(shape.config, run.device, torch.bfloat16 if on_gpu else torch.float32).eval()
    model = prune(encoder["model"], depth)
    workload, batch = shape.recipe.workload, shape.encode_batch
    tokens, _ = image_shape(shape.config, workload.image_tokens)
    generator = torch.Generator().manual_seed(run.seed)
    rates = {}
    for name, texts, images in (("texts", batch, 0), ("pictures", 0, batch)):
        inputs = make_inputs(shape.config, texts, images, workload.text_tokens, tokens, generator)
        inputs = {key: value.to(run.device) for key, value in inputs.items()}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(next(model.parameters()).dtype)

        def forward(inputs: dict[str, Any] = inputs) -> None:
            with torch.inference_mode():
                last_token_state(model(**inputs, use_cache=False).last_hidden_state, inputs["attention_mask"])

        seconds, _ = timed(forward, run)
        rates[f"{name}_per_second"] = round(batch / seconds, 2)
    return {"batch_size": batch, **rates}


def random_model(config: Any, device: str, dtype: torch.dtype) -> Any:
    """A randomly initialised model without LM head, made where it will be."""
    from transformers import AutoModel

    with torch.device(device):
        return AutoModel.from_config(copy.deepcopy(config), dtype=dtype)


def timed(step: Callable[[], None], run: Run) -> tuple[float, float | None]:
    """Median seconds of some calls after one to warm up, and the peak of GPU memory in GiB (None on a CPU)."""
    cuda = run.kind == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    seconds = []
    for _ in range(run.steps):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None


def half(train: TrainConfig) -> bool:
    return train.precision == "bf16"


def free(device: str) -> None:
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def shapes(options: argparse.Namespace, device: str) -> list[Shape]:
    """The true shapes on a GPU, else one scaled down."""
    if torch.device(device).type == "cuda" and not options.quick:
        found = []
        for name in options.shapes:
            recipe = read_recipe(name)
            if options.batch:
                recipe = replace(
                    recipe,
                    distil=replace(recipe.distil, batch_size=options.batch),  # type: ignore[type-var]
                    retrieve=replace(recipe.retrieve, batch_size=options.batch),
                )
            depths = tuple(options.depths)
            found.append(Shape(name, config_of(recipe.base), recipe, recipe.layers or depths[0], depths, 128))
        return found
    values = json.loads(json.dumps(KNOWN["Qwen/Qwen2-VL-7B-Instruct"]))
    layers = 4 if options.quick else 28
    values["text_config"].update(
        hidden_size=128, intermediate_size=676, num_attention_heads=4, num_key_value_heads=2, vocab_size=2000,
        num_hidden_layers=layers, max_position_embeddings=512,
    )  # fmt: skip
    values["text_config"]["rope_parameters"]["mrope_section"] = [4, 6, 6]
    values["vision_config"].update(embed_dim=64, hidden_size=128, depth=2 if options.quick else 8, num_heads=2)
    values.update(image_token_id=1990, video_token_id=1991, vision_start_token_id=1992, vision_end_token_id=1993)
    recipe = read_recipe("qwen2-vl-7b")
    size = 2 if options.quick else 16
    small = {"precision": "fp32", "lora_rank": 8, "lora_alpha": 16, "chunks": 2, "batch_size": options.batch or size}
    recipe = replace(
        recipe,
        distil=replace(recipe.distil, **small),  # type: ignore[type-var]
        retrieve=replace(recipe.retrieve, **small),
        workload=Workload(text_tokens=8 if options.quick else 32, image_tokens=4 if options.quick else 16),
    )
    depths = (4, 2) if options.quick else tuple(options.depths)
    kept = 2 if options.quick else 12
    return [Shape("qwen2-vl-7b scaled down", config_from(values), recipe, kept, depths, size)]


def machine(device: str) -> dict[str, Any]:
    output: dict[str, Any] = {
        "platform": platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        output.update(
            gpu=properties.name, gpu_memory_gib=round(properties.total_memory / 2**30, 1), cuda=torch.version.cuda
        )
    return output


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["qwen2-vl-7b", "qwen2-vl-2b"], help="recipes, on a GPU")
    parser.add_argument("--depths", nargs="+", type=int, default=[28, 20, 12, 8], help="decoder layers to embed with")
    parser.add_argument("--batch", type=int, help="pairs a step; the recipes' by default")
    parser.add_argument("--steps", type=int, default=3, help="timed calls of each measurement")
    parser.add_argument("--seconds", type=float, default=540, help="after this, what is not yet measured is left out")
    parser.add_argument("--device", help="cuda or cpu; by default cuda where there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, in seconds")
    parser.add_argument("--out", type=Path, help="the file of results")
    options = parser.parse_args(words)
    if options.quick:
        options.steps = 1
    return options


if __name__ == "__main__":
    main()
