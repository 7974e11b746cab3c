"""Trains puma-mini: the mini base's first layers, its projector and its vision tower, on OpenPics and extra pairs.

    python benchmarks/train_puma_mini.py --out runs/puma-mini --minutes 97 --threads 1

Beside what ``puma train`` does, it trains the vision tower on slightly moved and coloured images, and adds icons and
WordNet's glosses (``_extra_pairs.py``) as tasks of their own. Learning rates follow wall time, so that a run ends when
it is told to. A killed run goes on from its last state when started again. ``--split val`` is for choosing;
``puma_mini_figures.py`` scores what was chosen, once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _extra_pairs import HeldOut, icons, wordnet
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from puma.cli.commands._shared import quiet_libraries
from puma.data.mbeir import Benchmark
from puma.evaluation.mbeir import evaluate
from puma.evaluation.metrics import means
from puma.items import MODALITIES, Item, open_image
from puma.losses.mac import hard_temperature, mac_loss
from puma.mini import openpics as images
from puma.mini.base.assemble import assemble
from puma.mini.base.settings import BaseSettings
from puma.mini.base.vision import fast_copy
from puma.mini.fetch.packages import cache_home
from puma.retriever.model import Retriever
from puma.retriever.pooling import last_token_state
from puma.training.pairs import Pair, first_instructions, read_pairs
from puma.training.sampling import MixedTaskBatches

SIZE = 96
ICON_QUERY, ICON_NAME, WORD = 10, 13, 11
"""Tasks of the extra pairs: name to icon, icon to name, meaning to word."""
SAME_CONCEPT = (0, 1, 2, 3, ICON_QUERY, ICON_NAME, WORD)
"""Tasks for which any other item of the concept is a right answer too, and so no negative. In tasks 4 to 8 it may be
the very thing to tell apart."""


class InFloat32(nn.Module):
    """A convolution outside of autocast: on CPUs the backward of depthwise convolutions is far slower in bf16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.inner(x.float())


class Data:
    """Rows, images as pixels, and which concept a row is about."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.benchmark = root, Benchmark(root)
        self.pairs = list(read_pairs(root, limit=4))
        paths = sorted(str(path) for path in (root / "mbeir_images").rglob("*") if path.is_file())
        self.pixels, self.row = _pixels(paths), {path: i for i, path in enumerate(paths)}
        held = HeldOut(root)
        self.icons, self.icon_names = icons(held, SIZE, seed=seed)
        self._concepts: dict[str, str] = {}
        for task in self.benchmark.tasks("train"):
            path = root / f"query/train/mbeir_openpics_task{task}_train.jsonl"
            for line in path.read_text(encoding="utf-8").splitlines():
                query = json.loads(line)
                self._concepts[query["qid"]] = json.loads(query["query_src_content"])["concept"]
        self._add_icons()
        self._add_words(held)

    def _add_icons(self) -> None:
        asked = {task: self.benchmark.instructions(task) for task in (0, 3)}
        rng = random.Random(1)
        of_name: dict[str, list[str]] = {}
        for i, name in enumerate(self.icon_names):
            of_name.setdefault(name, []).append(f"icon:{i}")
        for i, name in enumerate(self.icon_names):
            image, text = Item(image=Path(f"/icon/{i}")), Item(text=name)
            known = frozenset(of_name[name])
            self._add(text, image, rng.choice(asked[0]), ICON_QUERY, f"i0:{i}", f"icon:{i}", known, name)
            did = f"name:{name}"
            self._add(image, text, rng.choice(asked[3]), ICON_NAME, f"i3:{i}", did, frozenset([did]), name)

    def _add_words(self, held: HeldOut) -> None:
        asked, rng = self.benchmark.instructions(1), random.Random(2)
        for i, meaning in enumerate(wordnet(held)):
            word = meaning.lemmas[0]
            did = f"word:{word}"
            for text in meaning.queries(rng):
                query, answer = Item(text=text), Item(text=word)
                self._add(query, answer, rng.choice(asked), WORD, f"w:{i}", did, frozenset([did]), word)

    def _add(
        self, query: Item, candidate: Item, asked: str, task: int, qid: str, did: str, known: frozenset[str], name: str
    ) -> None:
        self.pairs.append(Pair(query, candidate, asked, task, qid, did, known))
        self._concepts[qid] = name

    def excluded(self, rows: Sequence[Pair]) -> torch.Tensor:
        """bool [q, q]: candidate j is right for query i too, and not its positive."""
        ids = [pair.candidate_id for pair in rows]
        known = torch.tensor([[did in pair.known or did == pair.candidate_id for did in ids] for pair in rows])
        concepts = np.array([self._concepts[pair.query_id] for pair in rows])
        same = torch.from_numpy(concepts[:, None] == concepts[None])
        wide = torch.tensor([pair.task in SAME_CONCEPT for pair in rows])[:, None]
        return (known | same & wide) & ~torch.eye(len(rows), dtype=torch.bool)

    def images(self, items: Sequence[Item]) -> torch.Tensor:
        """Pixels in [-1, 1], [n, 3, SIZE, SIZE]."""
        names = [str(item.image) for item in items]
        stack = [self.icons[int(n[6:])] if n.startswith("/icon/") else self.pixels[self.row[n]] for n in names]
        return torch.from_numpy(np.stack(stack)).float().permute(0, 3, 1, 2) / 127.5 - 1


def _pixels(paths: Sequence[str]) -> np.ndarray:
    """uint8 [n, SIZE, SIZE, 3], kept in the cache."""
    from PIL import Image

    file = cache_home() / "features" / f"pixels-{SIZE}-{len(paths)}.npy"
    if not file.is_file():
        rows = np.stack([np.asarray(open_image(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for p in paths])
        part = file.with_suffix(".part.npy")
        part.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, rows)
        os.replace(part, file)
    return np.load(file)


def moved(x: torch.Tensor) -> torch.Tensor:
    """Images turned, scaled, shifted, mirrored (a quarter of them) and recoloured a little; white comes in."""
    n = len(x)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(n).uniform_(low, high)

    scale, aspect, turn = draw(0.85, 1.15), draw(0.92, 1.08), draw(-0.15, 0.15)
    mirror = torch.where(torch.rand(n) < 0.25, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * aspect * mirror * torch.cos(turn)
    theta[:, 0, 1] = -scale * torch.sin(turn)
    theta[:, 1, 0] = scale * torch.sin(turn) * mirror
    theta[:, 1, 1] = scale / aspect * torch.cos(turn)
    theta[:, 0, 2], theta[:, 1, 2] = draw(-0.12, 0.12), draw(-0.12, 0.12)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    x = functional.grid_sample(x - 1, grid, align_corners=False) + 1  # outside is 0 before the + 1: white
    return ((x + 1) * torch.empty(n, 3, 1, 1).uniform_(0.85, 1.1) - 1).clamp(-1, 1)


def trainable_tower(tower: Any) -> Any:
    """The tower with batch norms folded in, which trains three times as fast."""
    fused = fast_copy(tower)
    for block in fused.encoder.blocks:
        block.depthwise_conv.depthwise_conv = InFloat32(block.depthwise_conv.depthwise_conv)
    fused.embeddings.convolution = InFloat32(fused.embeddings.convolution)
    return fused


def unfold(fused: Any, tower: Any) -> None:
    """Write a folded tower's weights back into the plain one: the same function, in the base's own tensors."""
    pairs = [
        ((m.embeddings.convolution, m.embeddings.batchnorm), (m.encoder.top_conv, m.encoder.top_bn))
        for m in (fused, tower)
    ]
    ours, theirs = list(pairs[0]), list(pairs[1])
    for one, other in zip(fused.encoder.blocks, tower.encoder.blocks, strict=True):
        for into, block in ((ours, one), (theirs, other)):
            if other.expand:
                into.append((block.expansion.expand_conv, block.expansion.expand_bn))
            into.append((block.depthwise_conv.depthwise_conv, block.depthwise_conv.depthwise_norm))
            into.append((block.projection.project_conv, block.projection.project_bn))
    with torch.no_grad():
        for (trained, _), (convolution, norm) in zip(ours, theirs, strict=True):
            trained = getattr(trained, "inner", trained)
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            convolution.weight.copy_(trained.weight / scale.reshape(-1, 1, 1, 1))
            norm.bias.copy_(trained.bias + norm.running_mean * scale)
            check, _ = fuse_conv_bn_weights(
                convolution.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            assert torch.allclose(check, trained.weight, atol=1e-4)


class Placeholder:
    """Lets :class:`puma.retriever.encoding.Inputs` write out an image's tokens; its pixels are put in afterwards."""

    def lookup(self, item: Item) -> np.ndarray:
        side = SIZE // 32
        return np.zeros((1, side, side), np.float32)


class Trainer:
    """The model, its optimiser and one step."""

    def __init__(self, retriever: Retriever, data: Data, options: argparse.Namespace) -> None:
        self.retriever, self.data, self.options = retriever, data, options
        self.model = retriever.model.float()
        self.tower = trainable_tower(self.model.get_encoder("image"))
        self.model.vision_tower = self.tower
        self.model.requires_grad_(False)
        decoder, projector = self.model.get_decoder(), self.model.multi_modal_projector
        groups = []
        for modules, rate in (
            ([decoder.layers, decoder.norm], options.rate),
            ([projector], options.projector_rate),
            ([self.tower], options.tower_rate),
        ):
            weights = [w for m in modules for name, w in m.named_parameters() if "squeeze_excite" not in name]
            for weight in weights:
                weight.requires_grad_(True)
            groups.append({"params": weights, "lr": rate, "peak": rate})
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)

    def states(self, rows: Sequence[Pair]) -> torch.Tensor:
        """[RET] states of queries, then candidates, [2q, d]."""
        items = [p.query for p in rows] + [p.candidate for p in rows]
        asked = [p.instruction for p in rows] + [None] * len(rows)

        def length(i: int) -> int:
            return len(items[i].text or "") + len(asked[i] or "") + (30 if items[i].image is not None else 0)

        parts = [p.tolist() for p in np.array_split(np.array(sorted(range(len(items)), key=length)), 4)]
        states = []
        for part in parts:
            chosen = [items[i] for i in part]
            features = self.retriever.inputs.features(chosen, [asked[i] for i in part], Placeholder())
            if with_image := [item for item in chosen if item.image is not None]:
                pixels = moved(self.data.images(with_image))
                features["pixel_values"] = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.model(**features, use_cache=False).last_hidden_state
            states.append(last_token_state(hidden, features["attention_mask"]).float())
        return torch.cat(states)[torch.argsort(torch.tensor([i for part in parts for i in part]))]

    def step(self, rows: Sequence[Pair], progress: float, warmup: float) -> float:
        """One optimisation step at a fraction of the whole; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warmup * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
        self.model.train()
        self.tower.eval()
        states = self.states(rows)
        queries, candidates = states[: len(rows)], states[len(rows) :]
        target = torch.tensor([pair.target_modality for pair in rows])
        modality = torch.tensor([MODALITIES.index(pair.candidate.modality) for pair in rows])
        exclude = self.data.excluded(rows)
        tau = self.options.temperature
        taus = {"temperature": tau, "hard_temperature": hard_temperature(tau, 0.5, min(1.0, progress))}
        loss = mac_loss(queries, candidates, target, modality, exclude=exclude, **taus)
        loss = (loss + mac_loss(candidates, queries, modality, target, exclude=exclude.T, **taus)) / 2
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([w for g in self.optimiser.param_groups for w in g["params"]], 1.0)
        self.optimiser.step()
        return float(loss.detach())


def batches(pairs: Sequence[Pair], size: int, seed: int) -> Iterator[list[int]]:
    """Epoch after epoch."""
    sampler, epoch = MixedTaskBatches(pairs, size, seed=seed, balance=0.3), 0
    while True:
        sampler.set_epoch(epoch)
        yield from sampler
        epoch += 1


def main() -> None:
    options = arguments()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    root = images.build()
    base = assemble(settings=BaseSettings(image_size=SIZE), images=root)
    retriever = Retriever.from_base(base, layers=options.layers, prompt="short", dtype=torch.float32)
    retriever.model.set_attn_implementation("eager")
    plain = retriever.model.get_encoder("image")
    data = Data(root, options.seed)
    trainer = Trainer(retriever, data, options)
    before, step = _resumed(out, trainer)
    stream = batches(data.pairs, options.batch, options.seed)
    for _ in range(step):
        next(stream)
    start, losses = time.monotonic() - before, []
    while (spent := time.monotonic() - start) < 60 * options.minutes:
        rows = [data.pairs[i] for i in next(stream)]
        losses.append(trainer.step(rows, spent / 60 / options.minutes, min(1.0, (step + 1) / 40)))
        step += 1
        if step % 25 == 0:
            left = options.minutes - spent / 60
            print(f"step {step}  loss {np.mean(losses[-25:]):.3f}  {left:.0f} min left", flush=True)
        if step % 300 == 0:
            _keep(out, trainer, time.monotonic() - start, step)
    unfold(trainer.tower, plain)
    retriever.model.vision_tower = plain
    retriever.model.requires_grad_(False).eval()
    retriever.instructions = first_instructions(root)
    retriever.save_pretrained(out / "model", replace=True)
    tables = evaluate(retriever, root, split=options.split)
    print(f"{step} steps, {options.split} hit@10 {means(tables.values(), ['hit_rate@10'])['hit_rate@10']:.3f}")


def _keep(out: Path, trainer: Trainer, spent: float, step: int) -> None:
    part = out / "state.pt.part"
    states = {"model": trainer.model.state_dict(), "optimiser": trainer.optimiser.state_dict()}
    torch.save({**states, "spent": spent, "step": step}, part)
    os.replace(part, out / "state.pt")


def _resumed(out: Path, trainer: Trainer) -> tuple[float, int]:
    """Seconds and steps that an earlier run had behind it."""
    if not (out / "state.pt").is_file():
        return 0.0, 0
    kept = torch.load(out / "state.pt", weights_only=True)
    trainer.model.load_state_dict(kept["model"])
    trainer.optimiser.load_state_dict(kept["optimiser"])
    return kept["spent"], kept["step"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the state and the finished model")
    parser.add_argument("--minutes", type=float, default=97, help="of training")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of the layers")
    parser.add_argument("--projector-rate", type=float, default=2e-5)
    parser.add_argument("--tower-rate", type=float, default=3e-4)
    parser.add_argument("--temperature", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
