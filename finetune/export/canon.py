"""A canonical adapter: the same function written so that every engine that serves LoRA reads it the same way.

Engines differ in which of r, lora_alpha, use_rslora, rank_pattern and alpha_pattern they read; several take
lora_alpha / r for every module and say nothing. Here the scale goes into lora_B, lora_alpha = r, one rank for all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import GateError, RecipeError
from finetune.export.adapterfile import PAIR, clean_name, leftovers, next_rank, read_adapter, residual_init, scale
from finetune.export.vera import as_lora

if TYPE_CHECKING:
    from torch import Tensor

COPIED = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".md")
PLAIN = {  # what the settings of a canonical adapter are, whatever they were
    "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True, "lora_dropout": 0.0,
    "bias": "none", "layers_to_transform": None, "layers_pattern": None, "exclude_modules": None,
    "modules_to_save": None, "eva_config": None, "corda_config": None, "loftq_config": {}, "lora_ga_config": None,
    "velora_config": None, "inference_mode": True,
}  # fmt: skip


@dataclass(frozen=True)
class Canonical:
    """A canonical adapter's folder.

    Attributes:
        folder: where it was written, with the tokenizer's files of the original.
        rank: the one rank of all modules; the largest one where something is left over.
        modules: how many modules have an adapter.
        changed: what reads differently now, each a line.
        leftover: what can't be said by pairs of A and B; then the adapter is a copy, and only a merge is served.
    """

    folder: Path
    rank: int
    modules: int
    changed: tuple[str, ...]
    leftover: tuple[str, ...]


def canonical(adapter: Path, output: Path, initial: Path | None = None, base: Path | None = None) -> Canonical:
    """Writes `adapter`, made canonical, to `output`; the function of the two is the same. VeRA becomes LoRA.

    Args:
        adapter: a PEFT adapter's folder.
        output: a folder that does not exist yet.
        initial: A and B as they were before training (a folder or a safetensors file), for the initialisations that
            change the base: W0 - s B0 A0 + s B A is a plain adapter of twice the rank, A' = [A; A0], B' = [s B, -s B0]
            (as Meng et al. 2024 turn PiSSA into LoRA).
        base: the base's folder, which VeRA needs.

    Raises:
        RecipeError: not an adapter that is taken, the initial matrices are missing or of other shapes, `output` is there.
        GateError: a tensor is not finite.
    """
    from finetune.export.layout import modes_follow_umask

    told, tensors = read_adapter(adapter)
    if output.exists():
        raise RecipeError(f"{output}: is there already")
    config = told
    if told["peft_type"] == "VERA":
        config, tensors = as_lora(told, tensors, base)
    kept = _leftover(config, tensors)
    draft = output.parent / f".{output.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        if kept:
            if config is told:
                shutil.copyfile(adapter / "adapter_model.safetensors", draft / "adapter_model.safetensors")
            else:
                _save(dict(tensors), draft / "adapter_model.safetensors")
            _write_json(draft / "adapter_config.json", config)
            ranks = [t.shape[0] for n, t in tensors.items() if n.endswith((".lora_A.weight", ".lora_embedding_A"))]
            own = ranks or [1 for name in tensors if name.endswith((".ia3_l", ".oft_R.weight"))]
            done = Canonical(output, max(ranks, default=int(config.get("r") or 0)), len(own), (), kept)
        else:
            done = _plain(adapter, config, tensors, initial, draft, output)
        if config is not told:
            done = replace(done, changed=("peft_type: VERA -> LORA", *done.changed))
        _copy_others(adapter, draft)
        modes_follow_umask(draft)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return done


def _leftover(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the settings say, and the tensors that are no A or B."""
    found = leftovers(config)
    other = sorted(name for name in tensors if not PAIR.match(name))
    if other and not found:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        biases = all(name.endswith(".bias") for name in other)
        why = "biases were trained" if biases else "whole tensors were trained, or the vocabulary was resized"
        return (f"{other[0]}{more}: {why}; merge instead (form: merged)",)
    return found


def _plain(
    adapter: Path,
    config: dict[str, Any],
    tensors: Mapping[str, Tensor],
    initial: Path | None,
    draft: Path,
    output: Path,
) -> Canonical:
    pairs = _pairs(adapter, tensors)
    first = _first_pairs(adapter, config, pairs, initial)
    scaled: dict[str, tuple[Tensor, Tensor]] = {}
    for module, (down, up) in pairs.items():
        down, up = down.float(), up.float() * scale(config, module, down.shape[0])  # (r, in), (out, r)
        if first:
            before = first[module]
            up_before = before[1].float() * scale(config, module, before[0].shape[0])
            down, up = _cat(down, before[0].float(), 0), _cat(up, -up_before, 1)
        scaled[module] = (down, up)
    rank = next_rank(max(down.shape[0] for down, _ in scaled.values()))
    written = {}
    for module, (down, up) in scaled.items():
        a, b = _names(tensors, module)
        written[a], written[b] = _padded(down, rank, 0), _padded(up, rank, 1)
    _save(written, draft / "adapter_model.safetensors")
    targets = _targets(config, pairs)
    plain = config | {key: value for key, value in PLAIN.items() if key in config or value not in (None, {})}
    plain |= {"r": rank, "lora_alpha": rank, "target_modules": targets}
    _write_json(draft / "adapter_config.json", plain)
    changed = tuple(
        f"{key}: {json.dumps(config.get(key))[:60]} -> {json.dumps(plain[key])[:60]}"
        for key in sorted(plain)
        if config.get(key, PLAIN.get(key)) != plain[key]
    )
    return Canonical(output, rank, len(pairs), changed, ())


def _pairs(adapter: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module (its name in the base) -> A (r, in...) and B (out, r...)."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = PAIR.match(name)
        assert match is not None  # anything else is left over
        halves.setdefault(match[2], {})[match[3] or match[4]] = tensor
    lone = sorted(module for module, half in halves.items() if len(half) != 2)
    if lone or not halves:
        raise RecipeError(f"{adapter}: {'A or B is missing: ' + ', '.join(lone[:5]) if lone else 'no LoRA tensors'}")
    wrong = sorted(module for module, half in halves.items() if half["A"].shape[0] != half["B"].shape[1])
    if wrong:
        raise RecipeError(f"{adapter}: A and B are of different ranks: {', '.join(wrong[:5])}")
    return {module: (half["A"], half["B"]) for module, half in sorted(halves.items())}


def _first_pairs(
    adapter: Path, config: Mapping[str, Any], pairs: Mapping[str, tuple[Tensor, Tensor]], initial: Path | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B before training where the initialisation changed the base; else nothing."""
    from safetensors.torch import load_file

    init = config.get("init_lora_weights", True)
    if not residual_init(init):
        return {}
    if init == "loftq":
        raise RecipeError(f"{adapter}: init_lora_weights loftq quantised the base itself; merge instead, on that base")
    if initial is None:
        raise RecipeError(
            f"{adapter}: init_lora_weights {init!r} changed the base's weights, so this adapter is right only on that "
            f"changed base; give the initial adapter (saved before the first step), or train with "
            f"init_lora_weights: true"
        )
    file = initial / "adapter_model.safetensors" if initial.is_dir() else initial
    if not file.is_file():
        raise RecipeError(f"{file}: no such file; the initial A and B are needed, as {init!r} changed the base")
    first = _pairs(initial, {clean_name(name): tensor for name, tensor in load_file(file).items()})
    wrong = [
        m
        for m, (a, b) in pairs.items()
        if m not in first or (first[m][0].shape, first[m][1].shape) != (a.shape, b.shape)
    ]
    if wrong:
        raise RecipeError(f"{file}: not the beginning of {adapter}: {', '.join(wrong[:5])} missing or of another shape")
    return first


def _targets(config: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[str]:
    """The list of modules that peft finds again: the original list, or full names where something narrowed it.

    A suffix would also select the same layers elsewhere, which have no tensors; engines read the last part of a name.
    """
    listed = config.get("target_modules")
    narrowed = any(config.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    if isinstance(listed, list) and not narrowed:
        used = [t for t in sorted(listed) if any(m == t or m.endswith(f".{t}") for m in pairs)]
        covered = all(any(m == t or m.endswith(f".{t}") for t in used) for m in pairs)
        if covered:
            return used
    return sorted(pairs)


def _names(tensors: Mapping[str, Tensor], module: str) -> tuple[str, str]:
    prefix = f"base_model.model.{module}"
    if f"{prefix}.lora_A.weight" in tensors:
        return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"
    return f"{prefix}.lora_embedding_A", f"{prefix}.lora_embedding_B"


def _cat(first: Tensor, second: Tensor, dim: int) -> Tensor:
    import torch

    return torch.cat([first, second], dim)


def _padded(tensor: Tensor, rank: int, dim: int) -> Tensor:
    """`tensor` in float32 with zeros behind its ranks, which `dim` counts: zero rows of A meet zero columns of B."""
    shape = list(tensor.shape)
    shape[dim] = rank - shape[dim]
    return _cat(tensor, tensor.new_zeros(shape), dim).contiguous()


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes and reads back.

    Raises:
        GateError: the file does not hold what was written, or a product overflowed.
    """
    import torch
    from safetensors.torch import load_file, save_file

    save_file(tensors, file, metadata={"format": "pt"})
    back = load_file(file)
    for name, tensor in tensors.items():
        if name not in back or not torch.equal(back[name], tensor) or not torch.isfinite(tensor).all():
            raise GateError(f"export stopped: {file.name}: {name} is not what was written, or not finite")


def _copy_others(adapter: Path, draft: Path) -> None:
    """Tokenizer, chat template and the like; no pickles, no training state, nothing that was written here."""
    for file in sorted(adapter.iterdir()):
        if file.is_file() and file.suffix in COPIED and not (draft / file.name).exists():
            shutil.copyfile(file, draft / file.name)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
