"""What a step of self-distillation costs beside a plain contrastive one: targets from a store, one backbone as teacher
and student, and two separate models, side by side in one run.

    python benchmarks/distillation_step.py
    python benchmarks/distillation_step.py --checkpointing
    python benchmarks/distillation_step.py --hidden 1536 --total 28 --keep 12 --pairs 72 --precision bf16

A random model in Qwen2-VL's architecture (no weights are needed), LoRA on the kept layers, contrastive loss, AdamW. By
default some 62 M parameters, of which the student keeps 6 of 14 decoder layers, the paper's 12 of 28, with a vision
tower as heavy beside the student's layers as the paper's is. Two workloads: ``text`` (pairs of texts, as the paper
distils) and ``images`` (text to image). The variants take turns, step by step, in an order that rotates, so that a
machine's mood falls on all; a ratio is the median over rounds of step time to that round's plain step. ``shared, a
quarter`` asks the shared teacher about one of the step's four chunks (``teacher_share: 0.25``).

Before anything is timed all teachers must agree. ``expected`` is the count of multiplications: with LoRA no weight of
the backbone wants a gradient, so a student's step is a forward and one pass of the same size back (with checkpointing
one more forward), and the teacher's forward is *added* to that.

Runs on CPU or GPU. Results are appended to ``benchmarks/results/distillation_step.json`` with machine, versions,
command and seed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from puma.losses import distillation_loss, mac_loss
from puma.pruning import decoder_of, prune
from puma.retriever.devices import has_fast_bf16
from puma.retriever.encoding.states import forward_states
from puma.storage.folders import write_json
from puma.storage.shards import KEY_BYTES, Shards
from puma.training.teacher.dual_depth import DualDepth

RESULTS = Path(__file__).parent / "results" / "distillation_step.json"
VOCABULARY, IMAGE, VISION_START, VISION_END = 8192, 8000, 8001, 8002
LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
WEIGHT = 0.1 * 0.05
"""Of the distillation term, as in the recipe."""
GOALS = {"store": 1.05, "shared": 1.4}

Chunk = dict[str, torch.Tensor]
Step = Callable[[], None]


def main() -> None:
    warnings.filterwarnings("ignore")
    options = arguments()
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    torch.manual_seed(options.seed)
    base = build(options).to(device, torch.bfloat16 if options.precision == "bf16" else torch.float32)
    row: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if device == "cuda" else "no GPU"),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "shape": {key: getattr(options, key) for key in ("hidden", "total", "keep", "pairs", "precision")},
        "parameters": sum(weight.numel() for weight in base.parameters()),
        "checkpointing": options.checkpointing,
        "goals": GOALS,
        "workloads": {name: measured(base, name, options, device) for name in options.workload},
    }
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    write_json(options.out or RESULTS, [*([] if options.out else rows), row])
    print(f"{row['parameters'] / 1e6:.0f} M parameters, {options.keep} of {options.total} layers, {row['machine']}")
    for name, table in row["workloads"].items():
        for variant, cell in table.items():
            low, high = cell["ratio_quartiles"]
            print(
                f"{name:9s} {variant:24s} {1000 * cell['median_s']:9.1f} ms   {cell['ratio']:.2f} x plain "
                f"({low:.2f} to {high:.2f}; expected {cell['expected']:.2f})   {cell['weights'] / 1e6:.0f} M weights"
            )


def measured(base: Any, workload: str, options: argparse.Namespace, device: str) -> dict[str, dict[str, Any]]:
    """The variants on one workload: ``{variant: figures}``."""
    chunks = [{key: value.to(device) for key, value in chunk.items()} for chunk in batch(workload, options)]
    with tempfile.TemporaryDirectory() as folder:
        steps, held = variants(base, chunks, Path(folder), options, device)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        names = list(steps)
        for turn in range(options.warm_up + options.rounds):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                synchronise(device)
                start = time.perf_counter()
                steps[name]()
                synchronise(device)
                if turn >= options.warm_up:
                    seconds[name].append(time.perf_counter() - start)
    forecast = expected(base, chunks, options)
    table = {}
    for name, times in seconds.items():
        ratios = [ours / plain for ours, plain in zip(times, seconds["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        table[name] = {
            "median_s": statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [low, high],
            "expected": forecast.get(name, forecast[name.split(",")[0]]),
            "weights": held[name],
            "seconds": times,
        }
    return table


def variants(
    base: Any, chunks: list[Chunk], folder: Path, options: argparse.Namespace, device: str
) -> tuple[dict[str, Step], dict[str, int]]:
    """One step of each variant, and how many weights it holds. All start from the same weights, and all teachers are
    found to agree."""
    room = _room(options, device)
    whole = copy.deepcopy(base).requires_grad_(False)
    with room(), torch.no_grad():
        output = torch.cat([forward_states(whole, chunk) for chunk in chunks])
    shards = Shards(folder, {"benchmark": "distillation_step"}, output.shape[1])
    shards.append([key for chunk in chunks for key in keys_of(chunk)], output.cpu().numpy())

    student = adapted(prune(copy.deepcopy(base), options.keep), options)
    kinds = {"shared": None}
    if options.precision == "fp32" and has_fast_bf16():
        kinds["shared, teacher in bf16"] = torch.bfloat16
    duals = {name: DualDepth(copy.deepcopy(base), options.keep, autocast=kind) for name, kind in kinds.items()}
    shared = {name: adapted(dual.model, options) for name, dual in duals.items()}

    def plain() -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.cat([forward_states(student, chunk) for chunk in chunks]), None

    def stored() -> tuple[torch.Tensor, torch.Tensor | None]:
        # Looked up before the step, as the collator does: keys are hashed and rows read anew every time.
        rows = shards.rows([key for chunk in chunks for key in keys_of(chunk)])
        targets = torch.from_numpy(rows).to(device).float()
        return plain()[0], targets

    def separate() -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.no_grad():
            targets = torch.cat([forward_states(whole, chunk) for chunk in chunks])
        return plain()[0], targets

    def both(dual: DualDepth) -> Callable[[], tuple[torch.Tensor, torch.Tensor | None]]:
        def run() -> tuple[torch.Tensor, torch.Tensor | None]:
            pairs = [dual.states(chunk) for chunk in chunks]
            return torch.cat([ours for ours, _ in pairs]), torch.cat([theirs for _, theirs in pairs])

        return run

    def quarter(dual: DualDepth) -> Callable[[], Any]:
        """TrainConfig's teacher_share = 0.25: each step another of the four chunks is taught."""
        turns = itertools.cycle(range(len(chunks)))

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            here = next(turns)
            ours, theirs = [], []
            for number, chunk in enumerate(chunks):
                if number == here:
                    student_states, teacher_states = dual.states(chunk)
                else:
                    student_states = forward_states(dual.student_model(), chunk)
                    teacher_states = torch.full_like(student_states, torch.nan)
                ours.append(student_states)
                theirs.append(teacher_states.detach())
            return torch.cat(ours), torch.cat(theirs)

        return run

    made: dict[str, tuple[Any, Callable[..., Any]]] = {"plain": (student, plain), "store": (student, stored)}
    made |= {name: (shared[name], both(dual)) for name, dual in duals.items()}
    made["shared, a quarter"] = (shared["shared"], quarter(duals["shared"]))
    made["separate"] = (student, separate)
    for name, (_, states) in made.items():
        with room(), torch.no_grad():
            targets = states()[1]
        rough = 0.1 if options.precision == "bf16" or "bf16" in name else 5e-3  # float16 in the store
        if targets is None:
            continue
        said = ~targets.isnan().any(1)
        if not said.any() or not torch.allclose(targets[said], output[said], atol=rough, rtol=rough):
            sys.exit(f"{name}: another teacher, by {float((targets - output).abs().max())}")
    size = {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in made.items()}
    size["separate"] += sum(p.numel() for p in whole.parameters())
    for name, dual in {**duals, "shared, a quarter": duals["shared"]}.items():
        size[name] += sum(p.numel() for layer in dual._deep for p in layer.parameters())
    optimisers: dict[int, Any] = {}
    for model, _ in made.values():
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimisers.setdefault(id(model), torch.optim.AdamW(trained, lr=1e-5))
    return {
        name: stepping(states, optimisers[id(model)], model, options.pairs, room)
        for name, (model, states) in made.items()
    }, size


def stepping(states: Callable[..., Any], optimiser: Any, model: Any, pairs: int, room: Any) -> Step:
    """A training step around what gives its states."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    codes = torch.zeros(pairs, dtype=torch.long, device=trained[0].device)

    def step() -> None:
        with room():
            student, targets = states()
            loss = mac_loss(student[:pairs], student[pairs:], codes, codes, temperature=0.03, hard_temperature=0.03)
            if targets is not None:
                said = ~targets.isnan().any(1)
                loss = loss + WEIGHT * distillation_loss(student[said], targets[said])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def adapted(model: Any, options: argparse.Namespace) -> Any:
    """LoRA on the decoder's layers, as training puts it there; fp32 weights, train mode."""
    from peft import LoraConfig, get_peft_model

    decoder = decoder_of(model)
    path = "".join(f"{name}." for name, module in model.named_modules() if module is decoder)
    lora = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=rf"{path}layers\.\d+\..*({LINEAR})")
    model = get_peft_model(model.float().requires_grad_(False), lora).train()
    model.get_base_model().get_encoder("image").eval()
    if options.checkpointing:
        model.get_base_model().activation_checkpointing_enable()
        model.get_base_model().enable_input_require_grads()
    return model


def build(options: argparse.Namespace) -> Any:
    """The random base, without LM head."""
    import transformers

    hidden = options.hidden
    tower = 64 * max(1, round(hidden / 1.8 / 64))
    return transformers.Qwen2VLModel(
        transformers.Qwen2VLConfig(
            text_config={
                "hidden_size": hidden,
                "intermediate_size": 8 * hidden // 3 // 16 * 16,
                "num_hidden_layers": options.total,
                "num_attention_heads": max(1, hidden // 64),
                "num_key_value_heads": max(1, hidden // 192),
                "vocab_size": VOCABULARY,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "mrope_section": [16, 8, 8], "rope_theta": 1e4},
            },
            vision_config={
                "depth": 4,
                "embed_dim": tower,
                "hidden_size": hidden,
                "num_heads": tower // 64,
                "patch_size": 14,
                "mlp_ratio": 4,
            },
            image_token_id=IMAGE,
            video_token_id=IMAGE + 9,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
        )
    ).eval()


def batch(workload: str, options: argparse.Namespace) -> list[Chunk]:
    """Queries, then candidates: two chunks each, as the collator would pad them."""
    return [half for chunk in _sides(workload, options) for half in _halves(chunk, options.pairs)]


def _halves(chunk: Chunk, pairs: int) -> list[Chunk]:
    """A chunk in two; every tensor has an equal number of rows for each of its pairs."""
    cuts = {key: len(value) // pairs * (pairs // 2) for key, value in chunk.items()}
    first = {key: value[: cuts[key]] for key, value in chunk.items()}
    return [first, {key: value[cuts[key] :] for key, value in chunk.items()}]


def _sides(workload: str, options: argparse.Namespace) -> list[Chunk]:
    draw = torch.Generator().manual_seed(options.seed)

    def texts(length: int) -> torch.Tensor:
        return torch.randint(5, IMAGE, (options.pairs, length), generator=draw)

    queries = texts(options.length)
    chunks: list[Chunk] = [{"input_ids": queries, "attention_mask": torch.ones_like(queries)}]
    if workload == "text":
        words = texts(options.length)
        return [*chunks, {"input_ids": words, "attention_mask": torch.ones_like(words)}]
    side = options.side  # in tokens: 2 x 2 patches each
    marks = [torch.full((options.pairs, count), mark) for mark, count in ((VISION_START, 1), (IMAGE, side**2))]
    ids = torch.cat([*marks, torch.full((options.pairs, 1), VISION_END), texts(12)], 1)
    patches = (2 * side) ** 2 * options.pairs
    return [
        *chunks,
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).long(),
            "pixel_values": torch.randn(patches, 3 * 2 * 14 * 14, generator=draw),
            "image_grid_thw": torch.tensor([[1, 2 * side, 2 * side]] * options.pairs),
        },
    ]


def keys_of(chunk: Chunk) -> list[bytes]:
    """A key an item, of its tokens; images differ by their first pixels here."""
    ids = chunk["input_ids"].cpu().numpy()
    return [hashlib.sha256(row.tobytes()).digest()[:KEY_BYTES] for row in ids]


def expected(base: Any, chunks: list[Chunk], options: argparse.Namespace) -> dict[str, float]:
    """Ratios by multiplications: weights times the tokens (or patches) that meet them; attention's own are left out."""
    tokens = sum(chunk["input_ids"].numel() for chunk in chunks)
    layer = sum(weight.numel() for weight in decoder_of(base).layers[0].parameters()) * tokens
    tower = base.get_encoder("image")
    blocks = sum(weight.numel() for weight in tower.blocks.parameters())
    looked = blocks * sum(chunk["pixel_values"].shape[0] for chunk in chunks if "pixel_values" in chunk)
    passes = 3 if options.checkpointing else 2
    plain = passes * options.keep * layer + looked
    teacher = options.total * layer
    return {
        "plain": 1.0,
        "store": 1.0,
        "shared": (plain + teacher) / plain,
        "shared, a quarter": (plain + teacher / 4) / plain,
        "separate": (plain + teacher + looked) / plain,
    }


def _room(options: argparse.Namespace, device: str) -> Callable[[], Any]:
    def room() -> Any:
        if options.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=torch.bfloat16)

    return room


def synchronise(device: str) -> None:
    """Wait for the GPU, so that a step's time is its own."""
    if device == "cuda":
        torch.cuda.synchronize()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=576, help="width of the decoder, a multiple of 192")
    parser.add_argument("--total", type=int, default=14, help="decoder layers of the base")
    parser.add_argument("--keep", type=int, default=6, help="decoder layers of the student")
    parser.add_argument("--pairs", type=int, default=12, help="pairs a step")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--side", type=int, default=7, help="a picture is so many tokens wide and high")
    parser.add_argument("--rank", type=int, default=32, help="of LoRA")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, as the recipe")
    parser.add_argument("--workload", nargs="+", default=["text", "pictures"], choices=("text", "pictures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--out", help="write one row here instead of appending to the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
