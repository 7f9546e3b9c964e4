"""Several adapters of one base made one by weight, through peft's `add_weighted_adapter`; the base is not loaded."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError, did_you_mean, writing
from finetune.export.sources import AdapterFolder, check_adapters, common_files, read_adapters
from finetune.export.weighted import difference, rank_of, weighted
from finetune.told import tell

if TYPE_CHECKING:
    import torch

# peft's combination types: whether one drops values (and so needs a density), whether it works on the factors A and B
# one by one (and so needs one rank), whether it draws at random.
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
ONE_RANK = ("linear", *PRUNING)
BY_SVD = ("svd", *(f"{method}_svd" for method in PRUNING))
METHODS = (*ONE_RANK, "cat", *BY_SVD)
SEED = 0


@dataclass(frozen=True)
class Combined:
    """A written combination.

    Attributes:
        folder: the new adapter's, a whole PEFT folder.
        record: what combined.json holds.
        lines: the same for people.
    """

    folder: Path
    record: dict[str, Any]
    lines: list[str]


def combine_command(options: argparse.Namespace) -> list[str]:
    """`finetune merge A=0.7 B=0.3 --method cat --output DIR`.

    Raises:
        RecipeError: everything that is wrong with adapters, weights, method and output.
        GateError: the written file is not what was combined.
    """
    lines = combine(options.adapters, options.method, options.density, options.output, options.seed).lines
    tell(options.json, {"adapter": str(options.output), "said": lines})
    return lines


def combine(given: Sequence[str], method: str, density: float | None, output: Path, seed: int = SEED) -> Combined:
    """One adapter of several, in a new folder that appears whole or not at all.

    `cat` and `svd` (as far as its rank goes) give the weighted sum of what the adapters do, sum_i w_i s_i B_i A_i.
    The others sum A and B each on its own, so their product has cross terms; how far it is from the weighted sum is
    measured and recorded.

    Args:
        given: `FOLDER` or `FOLDER=WEIGHT`; weight 1 where none is given.
        density: share of values that ties, dare_* and magnitude_prune keep.
        seed: of dare_*, which draws at random what it drops.

    Raises:
        RecipeError: everything that is wrong. GateError: the written file is not what was combined.
    """
    adapters, problems = read_adapters(given)
    problems += _method_problems(method, density)
    if output.exists():
        problems.append(f"--output: {output} already exists")
    problems += check_adapters(adapters, one_rank=method in ONE_RANK)
    if problems:
        raise RecipeError(problems)
    tensors, config = weighted(adapters, method, density, seed)
    record = _record(adapters, method, density, seed, tensors)
    with writing(output):
        lines = _write(adapters, tensors, config, record, output)
    return Combined(output, record, lines)


def _method_problems(method: str, density: float | None) -> list[str]:
    if method not in METHODS:
        return [f"--method: {method!r} is not one of peft's{did_you_mean(method, METHODS)}"]
    prunes = method.removesuffix("_svd") in PRUNING
    if prunes and density is None:
        return [f"--density: {method} needs the share of values to keep, above 0 and up to 1"]
    if not prunes and density is not None:
        return [f"--density: {method} drops nothing; leave --density out, or take one of {', '.join(PRUNING)}"]
    if density is not None and not 0 < density <= 1:
        return [f"--density: above 0 and up to 1 is needed, got {density:g}"]
    return []


def _record(
    adapters: Sequence[AdapterFolder],
    method: str,
    density: float | None,
    seed: int,
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    names = [adapter.folder.name for adapter in adapters]
    return {
        "base": {key: adapters[0].config.get(key) for key in ("base_model_name_or_path", "revision")},
        "method": method,
        "density": density,
        "seed": seed if "dare" in method else None,
        "sources": [
            {"name": name, "weight": adapter.weight, "sha256": adapter.hashes()}
            for name, adapter in zip(names, adapters, strict=True)
        ],
        "rank": rank_of(tensors),
        "difference_from_weighted_sum": difference(adapters, tensors),
        "versions": {package: version(package) for package in ("finetune", "peft", "torch")},
    }


def _write(
    adapters: Sequence[AdapterFolder],
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    record: dict[str, Any],
    output: Path,
) -> list[str]:
    """The folder, reopened and checked before it gets its name; what was written, in lines."""
    from safetensors.torch import save_file

    from finetune.export.layout import modes_follow_umask
    from finetune.model.check import check_adapter

    draft = output.parent / f".{output.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        for name, content in (("adapter_config.json", config), ("combined.json", record)):
            text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=name == "adapter_config.json")
            (draft / name).write_text(text + "\n", encoding="utf-8")
        copied, different = common_files(adapters)
        for file in copied:
            (draft / file.name).write_bytes(file.read_bytes())
        check_adapter(draft, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, trained=True)
        modes_follow_umask(draft)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return _lines(adapters, record, different, output)


def _lines(adapters: Sequence[AdapterFolder], record: dict[str, Any], different: list[str], output: Path) -> list[str]:
    method, off = record["method"], record["difference_from_weighted_sum"]
    parts = " + ".join(f"{adapter.weight:g} x {adapter.folder.name}" for adapter in adapters)
    lines = [f"{method}: {parts}; rank {record['rank']}"]
    if off < 1e-6:
        lines.append("the same as the weighted sum of what the adapters do")
    else:
        exact = f"; cat gives it exactly, at rank {sum(a.rank for a in adapters)}" if method in ONE_RANK else ""
        lines.append(f"{off:.1%} away from the weighted sum of what the adapters do{exact}")
    if different:
        lines.append(f"no tokenizer written, the adapters differ in {', '.join(different)}; take the base's")
    return [*lines, f"adapter: {output}"]
