"""What the package uses of ray, run in this process, with actors that die when a test says so: for tests of the
scheduling and the merging. The real ray has its own tests (tests/road/test_ray_cluster.py)."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class ActorDiedError(RayError):
    pass


class InlineRay:
    """Calls run when their result is waited for, in a random order. ``deaths``: how many calls of ``embed`` end their
    actor; a poisoned item (text "poison") ends every one."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, seed: int = 0, deaths: int = 0, resources: dict[str, float] | None = None) -> None:
        self.random, self.deaths = random.Random(seed), deaths
        self.resources = resources or {"CPU": 8.0}
        self.results: dict[Any, Any] = {}
        self.dead: set[int] = set()
        self.made = self.most_waiting = 0

    def available_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: Any) -> Any:
        return _Held(value)

    def remote(self, **options: Any) -> Any:
        def wrap(target: Any) -> Any:
            make = self._actor if isinstance(target, type) else self._call
            return SimpleNamespace(remote=lambda *given: make(target, *given))

        return wrap

    def _call(self, target: Any, *given: Any, actor: Any = None) -> Any:
        reference = object()
        self.results[reference] = (target, [one.value if isinstance(one, _Held) else one for one in given], actor)
        self.most_waiting = max(self.most_waiting, len(self.results))
        return reference

    def _actor(self, target: Any, *given: Any) -> Any:
        self.made += 1
        own = target(*given)
        made = SimpleNamespace()
        for name in ("about", "embed"):
            method = getattr(own, name)
            setattr(made, name, SimpleNamespace(remote=lambda *more, m=method: self._call(m, *more, actor=made)))
        return made

    def wait(self, references: Any, num_returns: int = 1, timeout: float | None = None) -> Any:
        actor = self.results[self.random.choice(list(references))][2]
        among = [one for one in references if self.results[one][2] is actor]
        chosen = among[0] if actor is not None else self.random.choice(among)  # an actor keeps the order
        return [chosen], [one for one in references if one is not chosen]

    def get(self, reference: Any) -> Any:
        target, given, actor = self.results.pop(reference)
        if id(actor) in self.dead:
            raise ActorDiedError
        if target.__name__ == "embed":
            poisoned = any(item.text == "poison" for item in given[0])
            if poisoned or self.deaths:
                self.deaths -= not poisoned
                self.dead.add(id(actor))
                raise ActorDiedError
        try:
            return target(*given)
        except Exception as error:
            raise RayTaskError(error) from error

    def kill(self, actor: Any) -> None:
        self.dead.add(id(actor))

    def shutdown(self) -> None:
        pass


class _Held:
    def __init__(self, value: Any) -> None:
        self.value = value
