"""The adapter folded into the base's weights, shard by shard: sums in float32, one cast at the end, no model built."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.export import shards as files
from finetune.export.changes import read_adapter
from finetune.export.dequantise import Through
from finetune.export.jobs import Job
from finetune.export.plan import plan
from finetune.export.shards import Shard
from finetune.export.sums import Operands, Scratch, by_column, column_factor, merged_rows
from finetune.export.tied import is_output
from finetune.export.unpack import unpacked
from finetune.export.weights import model_tensors
from finetune.model.adapter import SCORE
from finetune.model.quantization import stored_method
from finetune.progress import progress

FORMAT = 1  # of what is written: another number makes an interrupted merge of an older version start anew


@dataclass(frozen=True)
class Merged:
    """What a merge has written.

    Attributes:
        dtype: asked for; None: each tensor kept its own.
        files: weight files and index, in the output folder.
        tensors, changed: how many there are, and how many of them the adapter changed.
        tied: what `tie_word_embeddings` must be in the merged config.json; None: as in the base.
        vocabulary: rows of the embedding where they are not those of the base.
        target: `original` or `dequantised`, whose weights the adapter was merged into.
        bytes: of all tensors. seconds: wall time.
    """

    dtype: str | None
    files: tuple[str, ...]
    tensors: int
    changed: int
    tied: bool | None
    vocabulary: int | None
    target: str
    bytes: int
    seconds: float


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    dtype: torch.dtype | None,
    max_shard_size: str = "5GB",
    threads: int | None = None,
    quantization: Mapping[str, Any] | None = None,
    trained: torch.dtype | None = None,
    score_head: bool = False,
    trust_remote_code: bool = False,
) -> Merged:
    """Writes the merged weights and their index into `output`, an existing folder; the other files are layout.py's.

    Memory: the adapter's tensors of the layer at hand and a few blocks of rows for each thread, whatever the model's size.
    A merge that was killed goes on when it is called again with the same inputs and settings; finished shards are read
    and compared with their checksums, no half-written one has a shard's name.

    Args:
        base: a folder with config.json and safetensors. adapter: a PEFT folder.
        dtype: of all floating tensors; None: each keeps its own.
        quantization: how the base was quantised for the adapter that was trained on it (model/quantization.describe): the
            delta goes into the weights as that left them, with a whole tensor of memory for each. None: into the base's.
        trained: the dtype that a base was loaded in, to be quantised; None: each tensor's own.
        score_head: the adapter's score head goes in as it is, in float32, and the base's output layer is left out.
        trust_remote_code: the base's own code may be asked which parameter a tensor is, where names don't tell.
        threads: that read, compute and write; default: as many as the machine has cores, at most 8.

    Raises:
        RecipeError: the adapter is not this base's, or can't be merged; a line for each reason. Nothing is written.
        GateError: a tensor of the adapter or of the result is not finite.
        OSError: what reading and writing raise, a full disk among them.
    """
    start = time.perf_counter()
    if output.resolve() in (base.resolve(), adapter.resolve()):
        raise RecipeError(f"{output}: the merged model can't be written over what it is made from")
    config = _config(base, quantization)
    limit = files.parse_size(max_shard_size)
    stored = bool(quantization and quantization["stored"])
    through = Through(quantization["method"], trained) if quantization and not stored else None
    if through:
        through.check()
    tensors = unpacked(model_tensors(base), config, trained) if stored else model_tensors(base)
    changes = read_adapter(adapter)
    head = changes.changes.pop(f"{SCORE}.weight").replaced if score_head else None
    todo = plan(base, config, tensors, changes, dtype, through, scored=score_head, trust_remote_code=trust_remote_code)
    if head is not None:
        body = (job for job in todo.jobs if not is_output(job.name))
        todo = replace(todo, jobs=(*body, Job(f"{SCORE}.weight", head, head.dtype)))
    shards = files.cut(todo.jobs, limit)
    inputs = [base / "config.json", *sorted({tensor.file for tensor in tensors.values()})]
    state = files.State(
        output,
        files.fingerprint(
            inputs, _files(adapter), [FORMAT, str(dtype), limit, str(quantization), str(trained), score_head]
        ),
    )
    files.clear(output, keep=[*state.finished, files.STATE])
    operands, scratch = Operands(), Scratch()
    with (
        _one_thread_each(),
        ThreadPoolExecutor(_workers(threads), "merge", initializer=_alone) as pool,
        progress("merging tensors", len(todo.jobs)) as advance,
    ):
        for shard in shards:
            noted = state.finished.get(shard.file)
            if noted is None or files.checksum(shard, output) != noted:
                written = _write(shard, output, operands, scratch, pool, 2 * _workers(threads), through, advance)
                state.note(shard, written)
            else:
                advance(len(shard.jobs))
    files.write_index(output, shards)
    state.remove()
    names = tuple(shard.file for shard in shards)
    return Merged(
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        files=names if len(names) == 1 else (*names, files.INDEX),
        tensors=len(todo.jobs),
        changed=todo.changed,
        tied=todo.tied,
        vocabulary=todo.vocabulary,
        target="dequantised" if quantization else "original",
        bytes=sum(job.size for job in todo.jobs),
        seconds=time.perf_counter() - start,
    )


def _write(
    shard: Shard,
    output: Path,
    operands: Operands,
    scratch: Scratch,
    pool: ThreadPoolExecutor,
    ahead: int,
    through: Through | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> int:
    """The shard's file, under its name only when it is whole; `advance` is told of each tensor.

    Returns:
        The checksum of its blocks.
    """
    part = output / (shard.file + files.PART)
    files.reserve(part, shard)
    crcs: list[int] = []
    running: deque[Future[int]] = deque()
    try:
        for number, job in enumerate(shard.jobs):
            job = replace(job, source=job.source.settled())
            if job.through and through:
                job = replace(job, source=through(job.source, job.through == "transposed"))
            factor = _factor(job, operands, scratch)
            for segment in job.segments():
                if len(running) >= ahead:
                    crcs.append(running.popleft().result())
                offset, _ = files.place(shard, number, segment)

                def block(job: Job = job, segment: Any = segment, factor: Any = factor, offset: int = offset) -> int:
                    return files.write_at(part, offset, merged_rows(job, segment, operands, scratch, factor))

                running.append(pool.submit(block))
            advance(1)
        crcs += [future.result() for future in running]
    except BaseException:
        for future in running:
            future.cancel()
        raise
    _reopened(part)
    part.replace(output / shard.file)
    return files.combined(crcs)


def _factor(job: Job, operands: Operands, scratch: Scratch) -> torch.Tensor | None:
    """DoRA's factor of a tensor whose outputs are columns."""
    for _, change in job.parts:
        if change.magnitude is not None and by_column(change):
            return column_factor(job, change, operands, scratch)
    return None


def _reopened(file: Path) -> None:
    """safetensors itself reads the file's header: lengths, types and places are right."""
    from safetensors import safe_open

    with safe_open(file, "pt"):
        pass


def _config(base: Path, quantization: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{base / 'config.json'}: {error}") from None
    method, wanted = stored_method(config), bool(quantization and quantization["stored"])
    if wanted and method is None:
        raise RecipeError(f"{base}: its weights don't lie quantised, as those that the adapter was trained on do")
    if method and not wanted:
        raise RecipeError(
            f"{base}: its weights are stored quantised ({method}), which no sum can be put on; "
            "merge into the original model, or into a copy of this one saved de-quantised"
        )
    return config


def _files(adapter: Path) -> list[Path]:
    return [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]


def _workers(threads: int | None) -> int:
    return threads or min(8, os.cpu_count() or 1)


def _alone() -> None:
    torch.set_num_threads(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch's own threads would only wait for each other's: the blocks are what runs side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
