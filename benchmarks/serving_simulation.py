"""Replicas of the service simulated with SimPy from measured times, to choose their number and the batch bound.

    python benchmarks/serving_simulation.py --measure      times of batches, and a load test beside; some two minutes
    python benchmarks/serving_simulation.py --write        the table and the plot of docs/scale.md

Measured, in one run: how long the encoder takes for so many texts together, what a request costs without an encoder
(a GET of
/healthz under the same load), and the load test that the simulation is checked against: nothing is fitted to it.
Simulated
is the batching of puma.serve: an encoder takes what waits, up to ``max_batch``; after a batch that served several the
next one is
delayed by a twentieth of that batch's time at most. A request goes to the replica with the fewest in work.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import simpy

import _svg
from scale_plan import PAGE, replaced

RESULT = Path(__file__).parent / "results" / "serving_simulation.json"
PLOT = PAGE.parent / "serving-simulation.svg"
START, END = "<!-- serving-simulation:start -->", "<!-- serving-simulation:end -->"
SIZES = (1, 2, 4, 8, 16, 32, 48, 64)
DELAY = 0.05
PLACES = 100
REQUESTS = 3000
"""Simulated for each cell of the table."""
COLOURS = ("#1f6f8b", "#b5532a", "#5a7d2a", "#7a4b94")


@dataclass(frozen=True)
class Times:
    """Measured seconds.

    Args:
        batches: of forward passes by the number of texts, several samples each.
        request: of a request without an encoder, of the core that encoder and server share.
    """

    batches: dict[int, list[float]]
    request: float

    def batch(self, count: int, chance: random.Random) -> float:
        """Of one batch: a sample's place is drawn, and the time interpolated between the sizes that were measured."""
        times = self._by_place[int(chance.random() * PLACES)]
        return float(np.interp(count, sorted(self.batches), times)) + count * self.request

    @cached_property
    def _by_place(self) -> np.ndarray:
        """Times by place and size, [PLACES, sizes]."""
        places = (np.arange(PLACES) + 0.5) / PLACES
        return np.array([np.quantile(self.batches[size], places) for size in sorted(self.batches)]).T


@dataclass
class Replica:
    """One encoder and its queue."""

    env: simpy.Environment
    times: Times
    max_batch: int
    max_wait: float
    chance: random.Random
    waiting: list[simpy.Event] = field(default_factory=list)
    in_work: int = 0
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrived = self.env.event()
        self.env.process(self._work())

    def ask(self) -> simpy.Event:
        """An event that succeeds when the vector is there."""
        done = self.env.event()
        self.waiting.append(done)
        self.in_work += 1
        if not self.arrived.triggered:
            self.arrived.succeed()
        return done

    def _work(self) -> Generator[Any, Any, None]:
        several, lasted = False, 0.0
        while True:
            idle = not self.waiting
            if idle:
                yield self._next()
            if several:
                delay = self.max_wait if idle else min(self.max_wait, DELAY * lasted)
                over = self.env.timeout(delay)
                while len(self.waiting) < self.max_batch and not over.processed:
                    yield over | self._next()
            batch, self.waiting = self.waiting[: self.max_batch], self.waiting[self.max_batch :]
            several = len(batch) > 1
            lasted = self.times.batch(len(batch), self.chance)
            self.sizes.append(len(batch))
            yield self.env.timeout(lasted)
            self.in_work -= len(batch)
            for done in batch:
                done.succeed()

    def _next(self) -> simpy.Event:
        self.arrived = self.env.event()
        return self.arrived


def simulate(
    times: Times,
    *,
    seconds: float,
    clients: int = 0,
    rate: float = 0.0,
    replicas: int = 1,
    max_batch: int = 64,
    max_wait: float = 0.004,
    seed: int = 0,
) -> dict[str, float]:
    """Texts a second, latencies in ms and texts a batch, of all but the first tenth of the time.

    Args:
        clients: each waits for its answer before it asks again; or
        rate: requests a second that come on their own, as a Poisson process.
    """
    env, chance = simpy.Environment(), random.Random(seed)
    pool = [Replica(env, times, max_batch, max_wait, chance) for _ in range(replicas)]
    answered: list[tuple[float, float]] = []  # when, after how long

    def request() -> Generator[Any, Any, None]:
        began = env.now
        least = min(replica.in_work for replica in pool)
        yield chance.choice([replica for replica in pool if replica.in_work == least]).ask()
        answered.append((env.now, env.now - began))

    def client() -> Generator[Any, Any, None]:
        while True:
            yield env.process(request())

    def arrivals() -> Generator[Any, Any, None]:
        while True:
            yield env.timeout(chance.expovariate(rate))
            env.process(request())

    for _ in range(clients):
        env.process(client())
    if rate:
        env.process(arrivals())
    env.run(until=seconds)
    counted = np.array([took for when, took in answered if when > seconds / 10])
    sizes = [size for replica in pool for size in replica.sizes]
    p50, p95, p99 = (float(np.quantile(counted, q)) * 1e3 for q in (0.5, 0.95, 0.99))
    return {
        "items_per_second": len(counted) / (0.9 * seconds),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "mean_ms": float(counted.mean()) * 1e3,
        "items_each": float(np.mean(sizes)),
    }


def measured(seconds: float, clients: int) -> dict[str, Any]:
    """Times of batches, of requests, and the load test, one after the other on this machine."""
    from _clients import result_of, start_load
    from _machine import described
    from _service import Served, model_folder
    from cold_start import made_index
    from load import batches, items_of, requests
    from puma.mini.openpics import build
    from puma.retriever.model import Retriever
    from puma.serve import ServeSettings

    model, root = model_folder(None), build()
    index = made_index(model, Path("runs/load"), 2000)
    with Served([index], model) as served:
        served.wait()
        asks = requests("texts", root)
        result_of(start_load(served.port, clients, min(5.0, seconds), asks, seed=1))
        found = result_of(start_load(served.port, clients, seconds, asks))
        found["batches"] = batches(served.ask("/metrics")[1].decode())
        bare = result_of(start_load(served.port, clients, min(5.0, seconds), [["/healthz", None, 1]]))
    retriever, items, chance = Retriever.from_pretrained(model), items_of("texts", root), random.Random(1)
    retriever.encode(items[:64])
    samples: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(9):
        for size in SIZES:
            chosen = chance.sample(items, size)
            began = time.perf_counter()
            retriever.encode(chosen)
            samples[size].append(round(time.perf_counter() - began, 5))
    return {
        "format": 1,
        "clients": clients,
        "max_batch": ServeSettings().max_batch,
        "service": found,
        "request_seconds": round(1 / bare["items_per_second"], 6),
        "batch_seconds": samples,
        **described(),
    }


def times_of(result: dict[str, Any]) -> Times:
    return Times({int(size): times for size, times in result["batch_seconds"].items()}, result["request_seconds"])


def section(result: dict[str, Any], seconds: float = 120.0) -> tuple[str, str]:
    """The text for the page, and the plot."""
    times, clients = times_of(result), result["clients"]
    again = simulate(times, seconds=seconds, clients=clients, max_batch=result["max_batch"])
    real = result["service"]
    lines = [
        "Measured by `python benchmarks/serving_simulation.py --measure`, then `--write` (seed 0): the service with "
        "puma-mini on one core, with texts of typical lengths. The times of batches and of requests were "
        f"measured, and {clients} clients simulated. The load test is a real run with as many clients:",
        "",
        "| | texts a second | p50, ms | p95, ms | p99, ms | texts a batch |",
        "|---|---|---|---|---|---|",
        row("load test", {**real, "items_each": real["batches"]["items_each"]}),
        row("simulated", again),
        "",
        "Next, requests that arrive at random times (Poisson). Each goes to the replica with the fewest requests in "
        "progress. The table shows p99 in ms, or `-` where the queue grows without end:",
        "",
    ]
    top = max(size / float(np.median(rows)) for size, rows in times.batches.items())
    rates = [max(1, round(top * share, -1 if top > 40 else 0)) for share in (0.5, 0.8, 1.5, 3.0, 6.0)]
    lines += ["| replicas | max_batch | " + " | ".join(f"{rate:g} a second" for rate in rates) + " |"]
    lines += ["|---|---|" + "---|" * len(rates)]
    curves: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for replicas in (1, 2, 4, 8):
        for bound in (8, 64):
            cells = []
            for rate in rates:
                found = simulate(
                    times, seconds=max(20.0, REQUESTS / rate), rate=rate, replicas=replicas, max_batch=bound
                )
                steady = found["items_per_second"] > 0.95 * rate and found["p99_ms"] < 20_000
                cells.append(f"{found['p99_ms']:,.0f}" if steady else "-")
                if steady:
                    curves.setdefault((replicas, bound), []).append((rate, found["p99_ms"]))
            lines.append(f"| {replicas} | {bound} | " + " | ".join(cells) + " |")
    lines += ["", "![p99 by rate and replicas](serving-simulation.svg)"]
    return "\n".join(lines), plot({n: curve for (n, bound), curve in curves.items() if bound == 64}, max(rates))


def row(name: str, found: dict[str, Any]) -> str:
    cells = [f"{found[key]:,.0f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
    return f"| {name} | {found['items_per_second']:.1f} | {' | '.join(cells)} | {found['items_each']:.1f} |"


def plot(curves: dict[int, list[tuple[float, float]]], most: float) -> str:
    """p99 against the rate, a line for each number of replicas, batches of up to 64."""
    width, height, left, bottom = 640, 320, 60, 280
    highest = max(y for curve in curves.values() for _, y in curve) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / most * (width - left - 120), bottom - y / highest * (bottom - 20)

    parts = [_svg.rule(left, bottom, width - 120, bottom, _svg.INK), _svg.rule(left, 20, left, bottom, _svg.INK)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share * most, share * highest)
        parts += [_svg.text(x, bottom + 18, f"{share * most:.0f}", "middle")]
        parts += [_svg.text(left - 6, y + 4, f"{share * highest:,.0f}", "end")]
    for colour, (replicas, curve) in zip(COLOURS, curves.items(), strict=False):
        points = [place(x, y) for x, y in curve]
        parts += [_svg.polyline(points, colour), *(_svg.dot(x, y, colour) for x, y in points)]
        parts.append(
            _svg.text(
                points[-1][0] + 8, points[-1][1] + 4, f"{replicas} replica{'s' * (replicas > 1)}", "start", colour
            )
        )
    parts += [_svg.text(left, 14, "p99, ms", "start"), _svg.text(width - 120, height - 6, "texts a second", "end")]
    return _svg.svg(width, height, parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--write", action="store_true", help="put table and plot into docs/")
    options = parser.parse_args(arguments)
    if options.measure:
        RESULT.write_text(json.dumps(measured(options.seconds, options.clients), indent=1) + "\n")
    text, drawn = section(json.loads(RESULT.read_text()))
    print(text)
    if options.write:
        PAGE.write_text(replaced(PAGE.read_text(), text, START, END))
        PLOT.write_text(drawn)


if __name__ == "__main__":
    main()
