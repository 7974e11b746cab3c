"""Embedding beside sentence-transformers and a plain loop of transformers, in one process, on a realistic mix.

    python benchmarks/encode.py                        puma-mini and a small cut shaped like Qwen2-VL-2B at 12 layers
    python benchmarks/encode.py --models mini --scale 0.25 --rounds 1 --out /tmp/trial.json
    python benchmarks/encode.py --models qwen-cut --only vllm --vllm VLLM_ENVIRONMENT/bin/python

For each kind of items (_encode_mix.py) every encoder embeds the same items, in turn, several times; the ratio is that
of the medians. PUMA's forgets before each what it kept of earlier calls, but for the queries that come one a call. The
peers run at the batch size that is best for them on that kind. All vectors are compared.

Of PUMA's encoder also: tokens given, padded and computed, and where the time goes (reading images and texts, the vision
tower, the decoder and what is left), its FLOPs over the matrix multiplication that this machine reached in the same
run; and in processes of their own the peak memory over the mix, and the seconds from the process's start to the first
vector. The last rows are the feeding of a simulated model that takes 5 ms a batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from _beside_vllm import beside_vllm
from _encode_mix import Part, mix, parts
from _encode_peers import PEERS, Peer
from _encode_profile import FEEDS, feeding_row, gemm_peak, preparation_rows, profile
from _machine import described
from _qwen_cut import qwen_cut
from _service import captions
from puma.cli.commands._shared import quiet_libraries
from puma.items import Item
from puma.mini.default import default_model
from puma.mini.openpics import build
from puma.retriever.model import Retriever
from puma.storage.folders import write_json

FIRST_VECTOR = {
    "puma": "import sys, puma; print(puma.Retriever.from_pretrained(sys.argv[1]).encode('a red fox').shape)",
    "sentence-transformers": (
        "import sys; from sentence_transformers import SentenceTransformer as S;"
        "print(S(sys.argv[1], device='cpu').encode('a red fox').shape)"
    ),
    "transformers": (
        "import sys, torch; from transformers import AutoModel, AutoProcessor as P; f = sys.argv[1];"
        "m = AutoModel.from_pretrained(f).eval(); b = P.from_pretrained(f).tokenizer('a red fox :[RET]',"
        "return_tensors='pt'); print(m(**b, use_cache=False).last_hidden_state[:, -1].shape)"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("mini", "qwen-cut"), default=["mini", "qwen-cut"])
    parser.add_argument(
        "--only", nargs="+", default=[""], help="beginnings of rows' names; other rows stay as they are"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of items")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="processes started for the first vector")
    parser.add_argument(
        "--vllm", type=Path, help="the python of an environment with vLLM (CPU build): the mix, qwen-cut"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    options = parser.parse_args()
    quiet_libraries()
    texts = captions(build())
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"format": 1}
    result |= {"command": "python benchmarks/encode.py --models MODEL --scale SCALE --only ROWS", "seed": options.seed}
    result |= described()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = default_model() if name == "mini" else qwen_cut(Path(folder) / "qwen-cut", options.seed)
            images = Path(folder) / f"images-{name}"
            images.mkdir()
            # The cut's small tokenizer makes three tokens of a word, and PUMA would cut long texts at 450.
            scale, words = (options.scale, 260) if name == "mini" else (options.scale / 4, 110)
            kinds = parts(texts, images, options.seed, scale, words)
            result.setdefault(name, {})["scale"] = options.scale
            if options.only != ["vllm"]:
                for _ in compare(model, kinds, options, result[name]):
                    write_json(options.out, result)
            if options.vllm is not None and name == "qwen-cut":
                rows = result[name]["beside_vllm"] = {}
                for kind, row in beside_vllm(model, kinds, options.vllm, options.rounds):
                    rows[kind] = row
                    print(json.dumps({kind: row}), flush=True)
                    write_json(options.out, result)
            write_json(options.out, result)
    if wanted("feeding", options):
        fed = Retriever.from_pretrained(default_model(), device="cpu")
        result["feeding"] = [feeding_row(fed, kind, options.seed) for kind in FEEDS]
        result["preparation"] = preparation_rows(fed, options.seed)
        print(json.dumps({name: result[name] for name in ("feeding", "preparation")}, indent=1))
    write_json(options.out, result)


def wanted(name: str, options: argparse.Namespace) -> bool:
    return any(name.startswith(beginning) for beginning in options.only)


def compare(model: Path, kinds: list[Part], options: argparse.Namespace, result: dict[str, Any]) -> Iterator[None]:
    """Fill in one model's rows, one by one: each kind, the mix, and what is measured in processes of their own."""
    peers = {name: made(model) for name, made in PEERS.items()}
    peak = gemm_peak()
    result["gemm_peak_gflops"] = max(result.get("gemm_peak_gflops", 0), round(peak / 1e9, 1))
    retriever = Retriever.from_pretrained(model, device="cpu")
    rows = result.setdefault("rows", {})
    for part in kinds:
        if wanted(part.name, options):
            rows[part.name] = timed([part], peers, options.rounds) | profile(retriever, part, peak)
            print(json.dumps({part.name: rows[part.name]}), flush=True)
            yield
    if wanted("the mix", options):
        rows["the mix"] = timed(mix(kinds, options.seed), peers, options.rounds)
        print(json.dumps(rows["the mix"]), flush=True)
        yield
    if wanted("processes", options):
        result["first_vector_s"] = first_vectors(model, options.starts)
        result["peak_memory_mb"] = peak_memory(model, options)
        print({name: result[name] for name in ("first_vector_s", "peak_memory_mb")})
        yield


def timed(given: list[Part], peers: dict[str, Peer], rounds: int) -> dict[str, Any]:
    """Items a second of each encoder, by medians of rounds in turn; ratios of ours to the peers'; and how far the
    vectors are apart."""
    sizes = {name: best_size(peer, given) for name, peer in peers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    vectors: dict[str, np.ndarray] = {}
    for turn in range(rounds):
        names = list(peers) if turn % 2 == 0 else list(peers)[::-1]
        for name in names:
            if not given[0].one_by_one:
                peers[name].forget()
            begun = time.perf_counter()
            vectors[name] = embedded(peers[name], given, sizes[name])
            seconds[name].append(time.perf_counter() - begun)
    count = sum(len(part.items) for part in given)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    others = [name for name in peers if name != "puma"]
    return {
        "items": count,
        "items_a_second": {name: round(count / value, 2) for name, value in medians.items()},
        "ratio_to": {name: round(medians[name] / medians["puma"], 3) for name in others},
        "ratio_range": {
            name: [
                round(end(a / b for a, b in zip(seconds[name], seconds["puma"], strict=True)), 3) for end in (min, max)
            ]
            for name in others
        },
        "batch_size": sizes,
        "largest_difference": {name: float(f"{np.abs(vectors[name] - vectors['puma']).max():.1e}") for name in others},
    }


def best_size(peer: Peer, given: list[Part]) -> int:
    """The batch size at which a peer is fastest on a third of these items; all have been warmed up by then."""
    sample = [replace(part, items=part.items[: max(8, len(part.items) // 3)]) for part in given]

    def seconds(size: int) -> float:
        begun = time.perf_counter()
        embedded(peer, sample, size)
        return time.perf_counter() - begun

    seconds(peer.sizes[0])
    if all(part.one_by_one for part in sample) or len(peer.sizes) == 1:
        return peer.sizes[0]
    # Twice through all of them, so that a slow moment of the machine does not decide.
    tried = [{size: seconds(size) for size in peer.sizes} for _ in range(2)]
    return min(peer.sizes, key=lambda size: min(one[size] for one in tried))


def embedded(peer: Peer, given: list[Part], size: int) -> np.ndarray:
    rows = []
    for part in given:
        calls: list[list[Item]] = [[item] for item in part.items] if part.one_by_one else [part.items]
        rows += [peer.embed(items, part.instruction, size) for items in calls]
    return np.concatenate(rows)


def first_vectors(model: Path, starts: int) -> dict[str, float]:
    """Medians of seconds from the start of a process to its end, which is right after its first vector."""
    seconds: dict[str, list[float]] = {name: [] for name in FIRST_VECTOR}
    for _ in range(starts):
        for name, code in FIRST_VECTOR.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, str(model)], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begun)
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


PEAK = """
import sys, tempfile
from pathlib import Path
from _encode_mix import mix, parts
from _encode_peers import PEERS
from _service import captions
from puma.mini.openpics import build

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

model, name, scale, seed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with tempfile.TemporaryDirectory() as folder:
    given = mix(parts(captions(build()), Path(folder), seed, scale, int(sys.argv[5])), seed)
    peer = PEERS[name](model)
    peer.embed(given[0].items[:2], None, 2)
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    for part in given:
        peer.embed(part.items, part.instruction, peer.sizes[-1])
    print(before, kilobytes("VmHWM"))
"""


def peak_memory(model: Path, options: argparse.Namespace) -> dict[str, list[int]]:
    """Of each encoder in a process of its own, in MB: what is held before the mix, and the most while it is embedded in
    batches of 64."""
    found = {}
    for name in PEERS:
        words = [sys.executable, "-c", PEAK, str(model), name, str(options.scale / 2), str(options.seed), "110"]
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
        found[name] = [int(value) // 1024 for value in done.stdout.split()[-2:]]
    return found


if __name__ == "__main__":
    main()
