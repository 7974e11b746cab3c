"""Batches prepared by other processes, ahead of the training, the same as without them.

Start method: forkserver. A training process holds a CUDA context and threads (of OpenMP, tokenizers, progress bars),
and a fork of it may hang or fail; a worker is a fork of a small server that has only imported what workers need. What
they are given is pickled, once. A script that trains needs no ``if __name__ == "__main__"`` guard, unless it hands over
objects of classes of its own.

Memory: a worker sends a batch as one block of anonymous memory (memfd), which the training process maps without a copy.
It does not lie in /dev/shm, of which docker gives 64 MB. One batch is prepared ahead by each worker, two where there is
only one: a step of 150 images is 0.85 GB in fp32.

Workers end with the process they work for, also where that is killed: each watches a pipe that closes then.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import multiprocessing
import os
import pickle
import re
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection, context, reduction
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from puma import errors
from puma.errors import InputError, PumaError
from puma.retriever.cores import usable_cores
from puma.training.pairs import Pair

MOST = 8
"""Workers by default at most: each takes 0.7 GB and the memory of two batches."""
ALIGNMENT = 64
_PRELOADED = ["puma.training.collating", "transformers.processing_utils", "transformers.image_processing_backends"]
_LOG = logging.getLogger(__name__)


def default_workers(pairs: Sequence[Pair] | None = None, *, accelerator: bool | None = None) -> int:
    """How many processes should prepare the batches of a training.

    One for each core that is left when every training process of this machine (LOCAL_WORLD_SIZE) has one for itself,
    at most :data:`MOST`. None where there is no other core, where the model itself runs on the cores (no accelerator:
    workers would only take them away from it), and where no pair has an image: texts take milliseconds.

    Args:
        pairs: what is trained on.
        accelerator: whether the model runs on one; None asks torch.
    """
    if accelerator is None:
        accelerator = torch.cuda.is_available()
    here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    images = pairs is None or any(pair.query.image is not None or pair.candidate.image is not None for pair in pairs)
    return max(0, min(MOST, usable_cores() // here - 1)) if accelerator and images else 0


def batch_loader(
    dataset: Any,
    batches: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    workers: int,
    *,
    pin: bool = False,
    pipes: bool = not hasattr(os, "memfd_create"),
) -> DataLoader[Any]:
    """A plain ``DataLoader`` over ready batches.

    Args:
        dataset: gives an item by what ``batches`` names it by.
        batches: an iterable of lists, with a length: the batch sampler.
        collate: makes a batch of items: a dict of tensors, strings and the like.
        workers: processes; 0 prepares batches in this one. So does what cannot be pickled, with a warning.
        pin: put batches into pinned memory, from where they reach a GPU without a wait (:func:`onto`).
        pipes: send batches through pipes, at three times the cost; where the system has no memfd (it is no Linux).

    Raises:
        InputError: ``workers`` is below 0.
        PumaError: on iteration, what ``collate`` raised, also in a worker.
    """
    if workers < 0:
        raise InputError(f"workers={workers}: give a number of processes, or 0 for none")
    if workers:
        try:
            # Plainly, not as multiprocessing would: that moves tensors to shared memory, for one reader only.
            payload = pickle.dumps((dataset, collate))
        except Exception as error:  # a lambda, an open file, a lock: pickle raises what it likes
            _LOG.warning("workers=%d: batches are prepared in the training process: %s", workers, error)
            workers = 0
    if not workers:
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, pin_memory=pin)
    ahead = 2 if workers == 1 else 1
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    return DataLoader(
        _Names(len(dataset)),
        batch_sampler=batches,
        collate_fn=_Collate(payload, pipes),
        num_workers=workers,
        prefetch_factor=ahead,
        pin_memory=pin,
        multiprocessing_context=_Context() if b"__main__" not in payload else "forkserver",
        worker_init_fn=_begin,
    )


def onto(batch: Any, device: torch.device | str) -> Any:
    """A batch on a device; out of pinned memory without waiting for the copy."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=batch.is_pinned() if batch.device.type == "cpu" else True)
    if isinstance(batch, Mapping):
        return {key: onto(value, device) for key, value in batch.items()}
    return batch


@contextlib.contextmanager
def worker_errors(workers: int) -> Iterator[None]:
    """Within the block a worker that was ended from outside is an error that says what to do.

    Raises:
        InputError: a worker ended unexpectedly.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_of_a_dead_worker(error):
            raise
        raise InputError(
            f"workers={workers}: a process that prepares batches was ended from outside, most likely for want of "
            "memory (see the system's log); give fewer workers, or 0 to prepare batches in the training process"
        ) from error


def _is_of_a_dead_worker(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return bool(re.search(r"DataLoader worker .*(exited unexpectedly|killed by signal)", str(error)))
    # The worker was gone when its batch's memory was fetched.
    return any(frame.filename.endswith("dataloader.py") for frame in traceback.extract_tb(error.__traceback__))


class _Names:
    """In a worker: what the batch sampler names an item by, as it is; ``_Collate`` reads the real data set."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, name: Any) -> Any:
        return name


class _Collate:
    """The data set and the collator as one pickle, opened in the worker at its first batch.

    Args:
        payload: pickle of (data set, collator).
        pipes: whether batches are sent through pipes.
    """

    def __init__(self, payload: bytes, pipes: bool) -> None:
        self.payload, self.pipes = payload, pipes
        self._opened: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __call__(self, names: list[Any]) -> Any:
        if self._opened is None:
            self._opened = pickle.loads(self.payload)
            if get_worker_info() is not None:
                self.payload = b""
        dataset, collate = self._opened
        try:
            batch = collate([dataset[name] for name in names])
        except PumaError as error:
            raise _FromWorker(error) from error
        return _Parcel(batch, self.pipes)


class _Parcel:
    """A batch on its way out of a worker: pickled as one block of bytes, and unpickled as the plain dict it was."""

    def __init__(self, batch: Mapping[str, Any], pipes: bool) -> None:
        self.batch, self.pipes = batch, pipes

    def __reduce__(self) -> tuple[Any, ...]:
        tensors = {key: value for key, value in self.batch.items() if isinstance(value, torch.Tensor)}
        places: dict[str, tuple[int, torch.dtype, tuple[int, ...], bool]] = {}
        end = 0
        for key, value in tensors.items():
            last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
            if last:
                tensors[key] = value = value.permute(0, 2, 3, 1)
            places[key] = (end, value.dtype, tuple(value.shape), last)
            end += -(-value.numel() * value.element_size() // ALIGNMENT) * ALIGNMENT
        rest = [(key, None if key in tensors else value) for key, value in self.batch.items()]
        if self.pipes or not end:
            held: Any = bytearray(end)
            _fill(held, tensors, places)
            return _open_parcel, (held, end, places, rest)
        descriptor = os.memfd_create("puma-batch")
        try:
            os.ftruncate(descriptor, end)
            _fill(mmap.mmap(descriptor, end), tensors, places)
            return _open_parcel, (reduction.DupFd(descriptor), end, places, rest)
        finally:
            os.close(descriptor)  # what is sent holds a copy of it


def _fill(held: Any, tensors: Mapping[str, torch.Tensor], places: Mapping[str, Any]) -> None:
    for key, value in tensors.items():
        if value.numel():
            _view(torch.frombuffer(held, dtype=torch.uint8), *places[key][:3]).copy_(value)


def _view(block: torch.Tensor, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    count = 1
    for side in shape:
        count *= side
    if not count:
        return torch.empty(shape, dtype=dtype)
    size = count * torch.empty(0, dtype=dtype).element_size()
    return block[start : start + size].view(dtype).view(shape)


def _open_parcel(held: Any, size: int, places: Mapping[str, Any], rest: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if not isinstance(held, bytearray):
        descriptor = held.detach()
        try:
            held = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    block = torch.frombuffer(held, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
    batch = dict(rest)
    for key, (start, dtype, shape, last) in places.items():
        value = _view(block, start, dtype, shape)
        batch[key] = value.permute(0, 3, 1, 2) if last else value
    return batch


class _FromWorker(PumaError):  # noqa: N818 - never seen by a user
    """Carries an error out of a worker. torch sends the class and a long text; of these the first error is made again,
    with its own class and message."""

    def __new__(cls, source: Any) -> Any:
        if isinstance(source, PumaError):
            return super().__new__(cls, source)
        name, _, message = str(source).rpartition("\x02")[2].rpartition("\x03")[0].partition("\x01")
        return getattr(errors, name, PumaError)(message)

    def __init__(self, source: PumaError) -> None:
        kinds = [kind for kind in type(source).__mro__ if kind.__module__ == errors.__name__]
        super().__init__(f"\x02{kinds[0].__name__}\x01{source}\x03")


class _Process(context.ForkServerProcess):
    """A worker whose start does not run the main script again, as it would for what is defined there."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _without_main():
            return context.ForkServerProcess._Popen(process_obj)


class _Context(context.ForkServerContext):
    Process = _Process


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(number: int) -> None:
    """Run in each worker first. torch has set its own threads to 1."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a batch is one worker's work
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)  # at once: nobody is left to tell
