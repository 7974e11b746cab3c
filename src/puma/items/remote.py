"""Embedding on a Ray cluster: an encoder whose model lives in actors, one model in each. Loads no torch, and ray only
when an encoder is made.

What is embedded is read here and sent to the actors, so they need the model and no view of the files; at most
:data:`AHEAD` batches per actor are on their way, so that a slow cluster slows the reading down. An actor that dies, by
itself or with its machine, is replaced, and its batches are embedded again by another.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from puma.errors import DependencyError, ImageError, PumaError
from puma.items.digest import read_content
from puma.items.encoder import Batch, Embedded, Encoder, embed_readable
from puma.items.item import Item
from puma.items.ray_cluster import connected, plan_pool

AHEAD = 2
"""Batches on their way to each actor: one that is embedded and one that waits beside it."""
DEATHS = 3
"""Actors that one batch may take with it before it is taken for the cause."""
START_SECONDS = 600.0
"""For an actor to start and load its model."""


class RayEncoder:
    """An encoder in actors of a Ray cluster. Used in a ``with`` statement: its actors end with it.

    Args:
        load: makes the encoder, in each actor; pickled, so a function of a module or a ``functools.partial`` of one.
        address: ``host:port`` of a cluster's head, ``ray://host:port``, or ``auto`` for one that this machine is part
            of; None for RAY_ADDRESS, else a cluster of this machine alone, which ends with this encoder.
        workers: actors; None for as many as there is room for (:func:`plan_pool`).
        describe: of the loaded encoder, what its vectors depend on beside its fingerprint; becomes :attr:`settings`.

    Raises:
        DependencyError: ray is not installed, no cluster answers at the address, it lacks room, or no actor is ready
            within :data:`START_SECONDS`. Else what ``load`` raises.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        *,
        address: str | None = None,
        workers: int | None = None,
        describe: Callable[[Any], dict[str, str]] | None = None,
    ) -> None:
        self.ray = connected(address or os.environ.get("RAY_ADDRESS") or None, workers)
        try:
            self.pool = plan_pool(self.ray.available_resources(), workers)
            options = {"num_cpus": self.pool.cpus, "num_gpus": self.pool.gpus, "max_restarts": 0}
            actor = self.ray.remote(**options)(_Worker)
            self._make: Callable[[], Any] = lambda: actor.remote(load, describe)
            self._starting: dict[Any, Any] = {}
            self._ready: list[Any] = []
            self.deaths = self._sent = 0
            for _ in range(self.pool.workers):
                self._start_one()
            about = self._wait_for_one()
        except BaseException:
            self.close()
            raise
        self.dim, self.fingerprint = int(about["dim"]), str(about["fingerprint"])
        self.settings: dict[str, str] = about["settings"]
        self.modalities = about["modalities"]

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        """As :meth:`puma.items.encoder.Encoder.encode`, by one actor.

        Raises:
            ImageError: an image cannot be used.
        """
        ((vectors, _, faults),) = self.embed_batches([(items, instruction)])
        if faults:
            raise ImageError(faults[0][1])
        return vectors

    def embed_batches(self, batches: Iterable[Batch]) -> Iterator[Embedded]:
        """What :func:`puma.items.encoder.embed_readable` gives of each batch, in their order.

        Raises:
            DependencyError: a batch ended :data:`DEATHS` actors, or no actor is left and none can be started.
        """
        source = enumerate(batches)
        todo: deque[_Task] = deque()
        running: dict[Any, tuple[_Task, Any]] = {}
        done: dict[int, Embedded] = {}
        following, drawn, exhausted = 0, 0, False
        while True:
            limit = following + AHEAD * self.pool.workers
            for number, (items, instruction) in islice(source, max(0, limit - drawn)):
                drawn = number + 1
                if items:
                    todo.append(_task(self.ray, number, items, instruction))
                else:
                    done[number] = (np.zeros((0, self.dim), np.float32), np.ones(0, bool), [])
            exhausted = drawn < limit
            while following in done:
                yield done.pop(following)
                following += 1
            if exhausted and following == drawn:
                return
            if not exhausted and drawn < following + AHEAD * self.pool.workers:
                continue
            self._submit(todo, running)
            if not running:
                self._wait_for_one()
                continue
            finished, _ = self.ray.wait([*running, *self._starting], num_returns=1)
            for reference in finished:
                if reference in self._starting:
                    self._arrived(reference)
                    continue
                task, actor = running.pop(reference)
                found = self._result(reference)
                if found is not None:
                    done[task.number] = task.whole(found, self.dim)
                else:
                    self._lost(actor, task, todo, running)

    def close(self) -> None:
        """End the actors; leave the cluster."""
        ray = self.ray
        for actor in chain(getattr(self, "_ready", ()), getattr(self, "_starting", {}).values()):
            ray.kill(actor)
        ray.shutdown()

    def __enter__(self) -> RayEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_one(self) -> None:
        actor = self._make()
        self._starting[actor.about.remote()] = actor

    def _submit(self, todo: deque[_Task], running: dict[Any, tuple[_Task, Any]]) -> None:
        load = {id(actor): 0 for actor in self._ready}
        for _, actor in running.values():
            if id(actor) in load:
                load[id(actor)] += 1
        while todo and self._ready:
            actor = min(self._ready, key=lambda one: load[id(one)])
            if load[id(actor)] >= AHEAD:
                return
            task = todo.popleft()
            load[id(actor)] += 1
            task.sent = self._sent = self._sent + 1
            running[actor.embed.remote(task.items, task.instruction)] = (task, actor)

    def _result(self, reference: Any) -> Any:
        """What a call gave; None where its actor died, or its machine with the result."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, PumaError) else error from None
        except errors.RayError:
            return None

    def _lost(self, actor: Any, task: _Task, todo: deque[_Task], running: dict[Any, tuple[_Task, Any]]) -> None:
        todo.appendleft(task)
        if actor not in self._ready:
            return
        self._ready.remove(actor)
        self._start_one()
        self.deaths += 1
        # An actor takes its batches in the order they were sent: it died in the oldest of its batches, if in one.
        others = [other for other, where in running.values() if where is actor]
        blamed = min([task, *others], key=lambda one: one.sent)
        blamed.deaths += 1
        if blamed.deaths >= DEATHS:
            raise DependencyError(
                f"batch {blamed.number} of {blamed.size} items ended {DEATHS} Ray workers, as {blamed.shown:.200}: "
                "most often memory ran out (`ray status`, and the workers' logs under /tmp/ray, say more); give a "
                "smaller --batch-size"
            )

    def _arrived(self, reference: Any) -> dict[str, Any] | None:
        actor = self._starting.pop(reference)
        about: dict[str, Any] | None = self._result(reference)
        if about is not None:
            self._ready.append(actor)
        return about

    def _wait_for_one(self) -> dict[str, Any]:
        """Until an actor has loaded its model."""
        end, failures = time.monotonic() + START_SECONDS, 0
        while self._starting and failures < DEATHS:
            left = end - time.monotonic()
            finished, _ = self.ray.wait([*self._starting], num_returns=1, timeout=max(0.0, left))
            if not finished:
                break
            about = self._arrived(finished[0])
            if about is not None:
                return about
            failures += 1
            self._start_one()
        raise DependencyError(
            f"no Ray worker could be started ({failures} died, waited at most {START_SECONDS:.0f} s): is there room "
            "(`ray status`), and is this version of PUMA with the model installed on every machine?"
        )


class _Worker:
    """One model, in an actor's process."""

    def __init__(self, load: Callable[[], Encoder], describe: Callable[[Any], dict[str, str]] | None) -> None:
        self.failure: PumaError | None = None
        try:
            self.encoder = load()
        except PumaError as error:  # `about` raises it: raised here, it would look like the death of the actor
            self.failure = error
        self.describe = describe

    def about(self) -> dict[str, Any]:
        if self.failure is not None:
            raise self.failure
        encoder = self.encoder
        settings = {} if self.describe is None else self.describe(encoder)
        described = {"dim": encoder.dim, "fingerprint": encoder.fingerprint, "settings": settings}
        return described | {"modalities": getattr(encoder, "modalities", None)}

    def embed(self, items: list[Item], instruction: str | None) -> Embedded:
        return embed_readable(self.encoder, items, instruction=instruction, batch_size=max(len(items), 1))


@dataclass
class _Task:
    """A batch on its way: what could be read of it, stored in Ray once, however often it is sent."""

    number: int
    size: int
    items: Any
    places: list[int]
    instruction: str | None
    faults: list[tuple[int, str]]
    shown: str
    sent: int = 0
    deaths: int = 0

    def whole(self, found: Embedded, dim: int) -> Embedded:
        """The actor's answer with what could not even be read put in its place."""
        if not self.faults:
            return found
        vectors, readable = np.zeros((self.size, dim), dtype=np.float32), np.zeros(self.size, dtype=bool)
        vectors[self.places], readable[self.places] = found[0], found[1]
        return vectors, readable, sorted([*self.faults, *((self.places[place], why) for place, why in found[2])])


def _task(ray: Any, number: int, items: Sequence[Item], instruction: str | None) -> _Task:
    loaded, places, faults = list[Item](), list[int](), list[tuple[int, str]]()
    for place, item in enumerate(items):
        try:
            file = read_content(item)[1] if isinstance(item.image, (str, os.PathLike)) else None
        except ImageError as error:
            faults.append((place, str(error)))
            continue
        loaded.append(item if file is None else Item(item.text, file))
        places.append(place)
    return _Task(number, len(items), ray.put(loaded), places, instruction, faults, repr(items[0]))
