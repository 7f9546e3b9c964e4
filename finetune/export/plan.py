"""From base and adapter to the list of tensors to write: where each is read, and which changes fall on which rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.export.changes import ADVICE, Adapter, Change, LowRank, wrapped_parameters
from finetune.export.dequantise import Through
from finetune.export.jobs import Job
from finetune.export.multiplied import misfit
from finetune.export.origins import Part, Parts, Skeleton, plain_parts, whole
from finetune.export.tied import is_output, is_tied
from finetune.export.vocabulary import grown, on_vocabulary, untie, vocabulary_rows
from finetune.export.weights import CODES, FLOATS, Stored

# Architectures whose linear layers are transformers' Conv1D, weights lying as (in, out).
CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")


@dataclass(frozen=True)
class Jobs:
    """All tensors to write.

    Attributes:
        tied: `tie_word_embeddings` as the merged model's config must have it; None: as the base has it.
        vocabulary: rows of the embedding where the adapter changed them.
        changed: how many of the base's tensors are not only copied.
    """

    jobs: tuple[Job, ...]
    tied: bool | None
    vocabulary: int | None
    changed: int


def plan(
    base: Path,
    config: dict[str, Any],
    tensors: dict[str, Stored],
    adapter: Adapter,
    dtype: torch.dtype | None,
    through: Through | None = None,
    scored: bool = False,
    trust_remote_code: bool = False,
) -> Jobs:
    """What to write.

    Args:
        dtype: a torch dtype for all floating tensors, or None.
        through: the base's linear weights are quantised and back first.
        scored: the output layer will be left out, for a score head.
        trust_remote_code: where names alone don't tell, the base's own code may be asked.

    Raises:
        RecipeError: a line for each of the adapter's tensors that has no place in this base.
    """
    optional = _without_optional(adapter)
    parts = None if adapter.wrapped or through else plain_parts(adapter.changes, tensors)
    if parts is not None and on_vocabulary(adapter, config, tensors, parts):
        parts = None
    skeleton = None
    tied: bool | None = None
    extra: dict[str, Stored] = {}
    if parts is None:
        skeleton = Skeleton(base, trust_remote_code)
        _unwrap(adapter, skeleton)
        parts = skeleton.parts(tensors)
        known = {part.parameter for own in parts.values() for part in own}
        for name in adapter.changes:  # experts trained one by one, by the names of the checkpoint
            if name not in known and name in tensors:
                parts[name] = whole(name, tensors[name])
        tied, extra = untie(adapter, skeleton, parts, tensors, is_tied(config))
        _refuse_unsupported(adapter, skeleton)
    _put_optional(adapter, optional, parts, tensors)
    before = tensors | extra
    sources = grown(adapter, parts, before)
    by_parameter: dict[str, list[tuple[str, Part]]] = {}
    for stored, own in parts.items():
        for part in own:
            by_parameter.setdefault(part.parameter, []).append((stored, part))
    ends = (skeleton.embedding, None if scored else skeleton.head) if skeleton else ()
    vocabulary = [name for name in ends if name]
    _check(adapter, by_parameter, sources, config, base, vocabulary)
    rows = vocabulary_rows(adapter, by_parameter, before, sources, vocabulary)
    jobs = _jobs(sources, adapter, parts, dtype)
    if through and skeleton is not None:
        jobs = _through(jobs, parts, by_parameter, through.weights(skeleton.model))
    return Jobs(jobs, tied, rows, sum(bool(job.parts) for job in jobs))


def _without_optional(adapter: Adapter) -> dict[str, Change]:
    """Takes out what is done to parameters that the base may not have: (IA)^3 scales a bias where there is one."""
    found = {name: change for name, change in adapter.changes.items() if change.scaling and change.scaling.optional}
    for name in found:
        del adapter.changes[name]
    return found


def _put_optional(adapter: Adapter, changes: dict[str, Change], parts: Parts, tensors: dict[str, Stored]) -> None:
    """Puts it back for those that are there, by the place of the weight beside them."""
    known = {part.parameter for own in parts.values() for part in own}
    places = {part.parameter: stored for stored, own in parts.items() for part in own}
    for name, change in changes.items():
        weight = places.get(f"{name.removesuffix('.bias')}.weight", "")
        stored = f"{weight.removesuffix('.weight')}.bias"
        if name not in known and weight and stored in tensors:
            parts[stored] = whole(name, tensors[stored])
        if name in known or stored in tensors:
            adapter.changes[name] = change


def _through(
    jobs: tuple[Job, ...], parts: Parts, places: dict[str, list[tuple[str, Part]]], linear: dict[str, bool]
) -> tuple[Job, ...]:
    """The jobs, those of quantised weights marked.

    Args:
        linear: see Through.weights.

    Raises:
        RecipeError: the checkpoint keeps such a weight in pieces, which quantised apart are not what was trained on.
    """
    marked, problems = [], []
    for job in jobs:
        turned = {linear[part.parameter] for part in parts.get(job.name, ()) if part.parameter in linear}
        if turned and (len(parts[job.name]) > 1 or len(places[parts[job.name][0].parameter]) > 1):
            problems.append(
                f"{job.name}: the checkpoint keeps it otherwise than the model; export.merge_into: original"
            )
        marked.append(replace(job, through="transposed" if True in turned else "as it is" if turned else None))
    if problems:
        raise RecipeError(problems)
    return tuple(marked)


def _unwrap(adapter: Adapter, skeleton: Skeleton) -> None:
    """LoRA on parameters by name becomes changes of those parameters."""
    for module in adapter.wrapped:
        for own, level in wrapped_parameters(adapter, module, skeleton.order(module)):
            name = f"{module}.{own}"
            shape = skeleton.shapes[name]
            experts = shape[0] if len(shape) == 3 else 1
            down, up = level["lora_A"], level["lora_B"]
            scale = adapter.scale(name, down.shape[0], stacked=experts)
            adapter.changes[name] = Change(
                low_rank=LowRank(down, up, scale, experts=experts),
                transposed=len(shape) == 3 and skeleton.transposed(module),
            )


def _refuse_unsupported(adapter: Adapter, skeleton: Skeleton) -> None:
    problems = [
        f"adapter: {name}: the checkpoint stores it through {skeleton.unsupported[name]}, which is not merged; {ADVICE}"
        for name in adapter.changes
        if name in skeleton.unsupported
    ]
    if problems:
        raise RecipeError(problems)


def _check(
    adapter: Adapter,
    places: dict[str, list[tuple[str, Part]]],
    tensors: dict[str, Stored],
    config: dict[str, Any],
    base: Path,
    vocabulary: list[str],
) -> None:
    """Every change has its tensors, and their shapes; settles which weights lie transposed.

    Raises:
        RecipeError: a line for each that has not.
    """
    problems = []
    for name, change in adapter.changes.items():
        if name not in places:
            problems.append(
                f"adapter: {name}: the base {base} has no such bias, so lora_bias can't be merged; train without it"
                if change.shift is not None
                else f"adapter: {name}: the base {base} has no such tensor; is it the adapter's base?"
            )
            continue
        stored, part = places[name][0]
        shape = list(tensors[stored].shape)
        if part.expert is None and len(places[name]) == 1:
            shape[max(len(shape) - 2, 0)] = part.rows
        if change.replaced is not None:
            resized = name in vocabulary and list(change.replaced.shape[1:]) == shape[1:]
            if list(change.replaced.shape) != shape and not resized:
                problems.append(_unequal(name, shape, change.replaced.shape))
                continue
            shape = list(change.replaced.shape)
        conv1d = config.get("model_type") in CONV1D or (
            "auto_map" in config and bool(adapter.config.get("fan_in_fan_out"))
        )
        problem, transposed = _fits(name, change, shape, conv1d, part.expert is not None)
        adapter.changes[name] = replace(change, transposed=change.transposed or transposed)
        problems += problem
    if problems:
        raise RecipeError(problems)


def _fits(name: str, change: Change, shape: list[int], conv1d: bool, apart: bool) -> tuple[list[str], bool]:
    """What doesn't fit a tensor of `shape`, and whether its weight lies transposed (Conv1D).

    Args:
        apart: the tensor is one expert's, only a part of the parameter.
    """
    problems = []
    transposed = False
    if change.scaling is not None or change.rotation is not None:
        if apart or len(shape) > 2:
            return [f"adapter: {name}: one of several experts in a tensor, which is not merged; {ADVICE}"], False
        transposed = conv1d and len(shape) == 2 and not is_output(name)
        odd = misfit(change.scaling or change.rotation, shape, transposed)
        return [_unequal(name, shape, odd)] if odd else [], transposed
    if change.shift is not None and list(change.shift.shape) != shape:
        problems.append(_unequal(name, shape, change.shift.shape))
    if change.tokens is not None:
        if change.tokens.shape[1:] != tuple(shape[1:]):
            problems.append(_unequal(name, shape, change.tokens.shape))
        if max(change.rows) >= shape[0]:
            problems.append(
                f"adapter: {name}: token {max(change.rows)} of trainable_token_indices is beyond the {shape[0]} rows"
            )
    if change.low_rank is not None:
        lora = change.low_rank
        delta = [lora.up.shape[0], lora.down.shape[1]]  # (out, in)
        if lora.embedding or change.transposed:
            delta.reverse()
        elif conv1d and delta[::-1] == shape:
            transposed = True
            delta.reverse()
        fits = delta[1] == shape[-1] and shape[-2] <= delta[0] if apart else delta == shape[-2:]
        if not fits or len(shape) > 3:
            problems.append(_unequal(name, shape, delta))
        elif change.magnitude is not None:
            column = lora.embedding or transposed
            if change.magnitude.count != (shape[-1] if column else shape[-2]):
                problems.append(_unequal(name, shape, change.magnitude.shape))
    return problems, transposed


def _unequal(name: str, shape: Any, other: Any) -> str:
    return f"adapter: {name}: shape {list(other)}, in the base {list(shape)}; is it the adapter's base?"


def _jobs(tensors: dict[str, Stored], adapter: Adapter, parts: Parts, dtype: torch.dtype | None) -> tuple[Job, ...]:
    jobs = []
    for name, stored in tensors.items():
        own = tuple(
            (part, adapter.changes[part.parameter])
            for part in parts.get(name, ())
            if part.parameter in adapter.changes and adapter.changes[part.parameter] != Change()
        )
        if stored.dtype not in FLOATS and stored.size % max(stored.count, 1):
            raise RecipeError(
                f"{stored.file}: {name}: packed type {stored.dtype}; a base that is not quantised is needed"
            )
        if stored.dtype not in FLOATS and own:
            raise RecipeError(f"{stored.file}: {name}: {stored.dtype}; a base that is not quantised is needed")
        code = CODES[dtype] if dtype is not None and stored.dtype in FLOATS else stored.dtype
        source = stored
        if len(own) == 1 and own[0][1].replaced is not None and own[0][0].expert is None:
            source = own[0][1].replaced
            own = ((replace(own[0][0], rows=whole(name, source)[0].rows), own[0][1]),)
        elif any(change.replaced is not None for _, change in own):
            raise RecipeError(f"adapter: {name}: replaced by the adapter, but the base stores it in parts; {ADVICE}")
        jobs.append(Job(name, source, code, own))
    return tuple(jobs)
