"""What ``puma evaluate`` scores: a model and how it is loaded, stored vectors, or a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma.cli.commands._engine import Engine
from puma.cli.commands._shared import chosen_model, load_encoder, note
from puma.errors import InputError

if TYPE_CHECKING:
    from puma.storage.vectors import VectorStore


@dataclass(frozen=True)
class Chosen:
    """The model that the flags name."""

    model: Path | None
    st: str | None
    st_prompt: str | None
    dtype: str
    attn: str | None
    layers: int | None
    engine: Engine

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "attn": self.attn, "layers": self.layers}

    def load(self) -> Any:
        return load_encoder(self.model, self.st, self.st_prompt, **self._options)

    def opened(self) -> contextlib.AbstractContextManager[Any]:
        """The model where the engine runs it, for the time of a ``with`` statement."""
        return self.engine.encoder(self.model, self.st, self.st_prompt, **self._options)


class Source:
    """What is scored: a model, stored vectors or a run."""

    def __init__(
        self, chosen: Chosen, embeddings: Path | None, run: Path | None, work: Path | None, resume: bool
    ) -> None:
        self.chosen, self.embeddings, self.run = chosen, embeddings, run
        self.work, self.resume = work, resume
        self.store: VectorStore | None = None
        for name, path in (("embeddings", embeddings), ("run", run)):
            if path is not None and not path.exists():
                raise InputError(f"--{name} {path}: no such file or folder")
        self.fingerprint = ""

    @property
    def name(self) -> str:
        """The model's name for people: its folder's."""
        if self.chosen.st is not None:
            return Path(self.chosen.st.rstrip("/")).name
        own = Path(chosen_model(self.chosen.model))
        chosen = self.embeddings or self.run or own
        return chosen.stem if chosen == self.run and chosen.is_file() else Path(os.path.abspath(chosen)).name

    def tables(
        self, root: Path, options: Mapping[str, Any], run_dir: Path | None, stack: contextlib.ExitStack
    ) -> dict[str, dict[str, Any]]:
        """The evaluation's tables; a model's vectors are kept until :meth:`written`."""
        from puma.evaluation import mbeir
        from puma.evaluation.processes import is_first, processes
        from puma.evaluation.stored.resumable import Work, opened_store, part_size
        from puma.index.exact.sharded import ShardedSearch
        from puma.mini.fetch.packages import cache_home
        from puma.storage.vectors import NoRoomError, remove_abandoned

        chosen = dict(options)
        if self.model_needed:
            encoder = stack.enter_context(self.chosen.opened())
            if self.chosen.engine.remote:
                chosen["search"] = ShardedSearch(encoder.ray)
            self.fingerprint = encoder.fingerprint
            names = ("dataset", "split", "tasks", "pools", "instruction")
            chosen["batch_size"] = part_size(encoder)
            values = mbeir.work_settings(encoder, root, **{name: chosen[name] for name in (*names, "batch_size")})
            where = Work(self.work, self.resume, note)
            store = opened_store(cache_home() / "evaluations", root.resolve().name, values, where)
            if is_first():
                remove_abandoned(cache_home() / "evaluations")
            self.store = stack.enter_context(store)
            try:
                return mbeir.evaluate(encoder, root, run_dir=run_dir, work=self.store, **chosen)
            except NoRoomError as error:
                if self.work is not None or processes()[1] > 1:
                    raise
                note(f"{error}; without that, this evaluation keeps its vectors in memory and cannot be resumed")
                self.store.remove()
                return mbeir.evaluate(encoder, root, run_dir=run_dir, **chosen)
        chosen.pop("instruction")
        if self.run is not None:
            chosen.pop("memory", None)
            return mbeir.evaluate_runs(self.run, root, **chosen)
        from puma.evaluation.stored.reading import read_embeddings

        stored = read_embeddings(str(self.embeddings), chosen["split"])
        self.fingerprint = stored.fingerprint
        if self.chosen.engine.remote:
            chosen["search"] = ShardedSearch(stack.enter_context(self.chosen.engine.cluster()))
        return mbeir.evaluate_embeddings(stored, root, run_dir=run_dir, **chosen)

    def written(self) -> None:
        """The result is on disk: kept vectors are thrown away."""
        if self.store is not None:
            self.store.remove()

    @property
    def model_needed(self) -> bool:
        return self.embeddings is None and self.run is None
