"""Not a test: real gloo processes for test_gathering. Run as a script, so that torch is imported once and the ranks are
forked from a process with one thread.

``python ranks.py FOLDER`` trains one step of a tiny model on one batch, cut over 1, 2 and 3 processes in uneven parts,
under DDP, once per entry of CASES; rank r of w writes its parameters' gradients to ``FOLDER/w-r.pt``.
"""

import os
import sys
import traceback
from pathlib import Path

import torch
from torch import distributed, nn

from puma.losses.batch_keys import ANY
from puma.losses.gathering import gather_rows, gather_sizes
from puma.training.objective import RetrievalObjective

DIM, QUERIES = 6, 6
CUTS = {1: [6], 2: [2, 4], 3: [3, 1, 2]}
"""How many queries each rank has."""
HARD = [0, 2, 0, 1, 0, 2]
"""Hard negatives that each query brings: so ranks differ in candidates too, and one rank of three has few."""
CASES = {
    **{
        f"{loss}{'-symmetric' * both}": {"loss": loss, "symmetric": both}
        for loss in ("mac", "split-mac", "infonce", "siglip", "facility-location", "graph-cut")
        for both in (False, True)
    },
    "margin": {"margin": 0.05, "symmetric": True},
    "split-mac-margin": {"loss": "split-mac", "other_weight": 0.3, "margin": 0.05, "symmetric": True},
    "split-mac-cached": {"loss": "split-mac", "other_weight": 3.0, "grad_cache": 2, "symmetric": True},
    "any": {"loss": "split-mac", "symmetric": True},
    "nested": {"loss": "split-mac", "dimensions": (2, 4), "margin": 0.05, "symmetric": True},
    "nested-cached": {"loss": "mac", "dimensions": (3,), "grad_cache": 2, "symmetric": True},
    "mse": {"distillation_weight": 0.5},
    "cosine": {"distillation_weight": 0.5, "distillation": "cosine"},
    "relational": {"distillation_weight": 0.5, "distillation": "relational"},
    "row-softmax": {"distillation_weight": 0.5, "distillation": "row-softmax", "distillation_centre": "both"},
    "row-softmax-within": {
        "distillation_weight": 0.5,
        "distillation": "row-softmax",
        "distillation_within": "modality",
    },
    "cached": {"grad_cache": 2, "symmetric": True, "distillation_weight": 0.5},
}


class Tiny(nn.Module):
    """A model with the pipeline's interface: one linear map on one token an item."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(DIM, DIM)

    def forward(self, chunk):
        return {"token_embeddings": torch.tanh(self.map(chunk["x"]))[:, None]}


def batch(first, count, any_modality=()):
    """The part of the one batch that has ``count`` queries from ``first`` on, with their hard negatives; the queries
    ``any_modality`` ask for no modality."""
    g = torch.Generator().manual_seed(1)
    total = QUERIES + sum(HARD)
    x = torch.randn(QUERIES + total, DIM, generator=g)
    modality = torch.randint(0, 2, (total,), generator=g)
    key = torch.arange(total) + 100
    for twin, j in ((4, 1), (QUERIES + 1, 5)):  # a positive twice; a hard negative that is another query's positive
        key[twin], modality[twin], x[QUERIES + twin] = key[j], modality[j], x[QUERIES + j]
    content = torch.arange(total)
    content[QUERIES + 3] = content[0]  # the same content under two ids, on two ranks
    known = [[int(key[i])] for i in range(QUERIES)]
    known[2].append(int(key[3]))  # another rank's positive is right for query 2
    known[5] += [int(key[0]), 7]  # ranks differ in how many positives are known
    teacher = torch.randn(QUERIES + total, DIM, generator=g)
    taught = torch.rand(QUERIES + total, generator=g) < 0.6
    rows = list(range(first, first + count))
    hard = [QUERIES + sum(HARD[:i]) + n for i in rows for n in range(HARD[i])]
    candidates = rows + hard
    items = rows + [QUERIES + j for j in candidates]
    most = max(len(known[i]) for i in rows)
    shuffled = torch.randperm(len(items), generator=g)
    parts = shuffled.split(3)
    chunks = [
        {
            "x": x[items][part],
            "attention_mask": torch.ones(len(part), 1),
            "puma_rows": part,
            "puma_with_image": torch.zeros(len(part), dtype=torch.bool),
        }
        for part in parts
    ]
    chunks[0] |= {
        "puma_target_modality": torch.tensor([ANY if i in any_modality else int(modality[i]) for i in rows]),
        "puma_candidate_modality": modality[candidates],
        "puma_candidate_key": key[candidates],
        "puma_content_key": content[candidates],
        "puma_known": torch.tensor([known[i] + [-1] * (most - len(known[i])) for i in rows]),
        "puma_teacher": teacher[items],
        "puma_taught": taught[items],
    }
    return chunks


def work(rank, world, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet-{world}",
        rank=rank,
        world_size=world,
    )
    first, count = sum(CUTS[world][:rank]), CUTS[world][rank]
    results = {}
    for name, options in CASES.items():
        # Without DDP in between for one process: the reference is the plain model.
        model = Tiny()
        wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        try:
            objective = RetrievalObjective(wrapped, temperature=0.2, decay=1.0, **options)
            objective.progress = 0.3
            terms = objective(batch(first, count, any_modality=(1, 4) if name == "any" else ()))
        except ValueError as error:  # alike on all ranks: an unknown kind
            results[name] = str(error)
            continue
        sum(terms.values()).backward()
        results[name] = {
            "gradient": {key: value.grad for key, value in model.named_parameters()},
            "terms": {key: float(value.detach()) for key, value in terms.items()},
        }
    sizes = [n for (n,) in gather_sizes([rank + 1], torch.device("cpu"))]
    rows = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    gathered = gather_rows(rows, sizes)
    (gathered * (rank + 1)).sum().backward()
    results["rows"] = {"sizes": sizes, "gathered": gathered.detach(), "gradient": rows.grad}
    torch.save(results, folder / f"{world}-{rank}.pt")
    distributed.destroy_process_group()


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    failed = False
    for world in CUTS:
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work(rank, world, folder)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        failed |= any(os.waitpid(child, 0)[1] for child in children)
    sys.exit(failed)


if __name__ == "__main__":
    main()
