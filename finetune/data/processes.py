"""Chunks of work over several processes: results in the order of the chunks, a bounded number of them in memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

from finetune.errors import RecipeError
from finetune.stop import obey_parent

CHUNK = 512  # rows that go to a worker at once
AHEAD = 3  # chunks a worker that are under way at once, so that no worker waits for the reader

Work = Callable[[Any], Any]


def chunked(items: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
    """The items in lists of `size`, the last one shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def map_chunks(chunks: Iterable[Any], make_work: Callable[[], Work], workers: int) -> Generator[Any]:
    """What the work makes of each chunk, in their order. Who stops early closes it (`contextlib.closing`).

    Args:
        chunks: each picklable; may be a stream, which is read in this process.
        make_work: picklable; called once in each process.
        workers: processes that work. With 0 or 1, or a single chunk, it is this process. The results are the same.

    Raises:
        RecipeError: a worker process died.
    """
    stream = iter(chunks)
    first = list(islice(stream, 2))
    stream = chain(first, stream)
    if workers <= 1 or len(first) < 2:
        if first:
            yield from map(make_work(), stream)
        return
    # Spawned, not forked: a fork copies the locks of torch's and the tokenizer's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (make_work, os.getpid())) as pool:
        try:
            yield from _in_order(pool, stream, AHEAD * workers)
        except BrokenProcessPool:
            raise RecipeError(
                f"data.workers: one of {workers} worker processes died (often: out of memory); try fewer"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, chunks: Iterator[Any], ahead: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque(pool.submit(_work, chunk) for chunk in islice(chunks, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(_work, chunk) for chunk in islice(chunks, 1))
        yield result


_workers: list[Work] = []  # of a worker process: its one worker, from the pool's initialiser


def _start(make_work: Callable[[], Work], parent: int) -> None:
    obey_parent(parent)
    _workers.append(make_work())
    gc.freeze()  # the libraries' hundred thousands of objects live as long as the worker: not to be searched again


def _work(chunk: Any) -> Any:
    return _workers[0](chunk)
