"""An adapter file reopened after it was written: what was trained is in it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import GateError
from finetune.model.adapter import SCORE
from finetune.model.methods import METHODS, shared_tensors
from finetune.model.virtual import IN_FILE, PARAMETER

Shape = tuple[int, ...]


def adapter_shapes(model: Any) -> dict[str, Shape]:
    """Names and shapes that peft's file of this model's adapter must have, from the parameters that belong to it.

    What peft puts beside them (VeRA's shared matrices) is there too. A parameter that is spread over processes counts
    with its whole shape.
    """
    from finetune.fullstate import adapter_parameters, turned_halves

    shapes = {_name_in_file(name): tuple(tensor.shape) for name, tensor in shared_tensors(model).items()}
    for name, parameter in adapter_parameters(model):
        shapes[_name_in_file(name)] = tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3's own word for it
    for name, module in turned_halves(model).items():
        shapes[_name_in_file(name)] = tuple(module.weight.shape)
    return shapes


def check_adapter(folder: Path, expected: Mapping[str, Shape], trained: bool) -> None:
    """Reopens `folder/adapter_model.safetensors`.

    Args:
        expected: names and shapes, as from `adapter_shapes`.
        trained: whether a step has been made, so that what starts at one value (LoRA's B and a score head at 0, the
            vectors of (IA)^3 at 1) can't all have it any more (after one step from a head of zeros the head alone has
            moved: it is what the adapter gets its gradient through).

    Raises:
        GateError: no such file, a tensor missing, unknown, empty, of another shape or not finite, or all still as
            they started; it names the tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise GateError(f"the saved adapter can't be read: {file}: {error}") from None
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} was not trained" for name in sorted(tensors) if name not in expected]
    for name, tensor in sorted(tensors.items()):
        if not tensor.numel():
            problems.append(f"{name} is empty")
        elif name in expected and tuple(tensor.shape) != tuple(expected[name]):
            problems.append(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(expected[name])}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} is not finite")
    if trained and (stands := _as_before(tensors)):
        problems.append(f"{stands}, as before training")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise GateError(f"the saved adapter is not the trained one: {file}: {'; '.join(problems[:5])}{more}")


def _as_before(tensors: Mapping[str, Any]) -> str:
    """What still stands as it does before training, in words; nothing where something has moved, or no start is known."""
    starts = [(method.moves, method.start, method.stands) for method in METHODS.values()]
    found: list[str] = []
    for pattern, start, stands in [*starts, (rf"\.{SCORE}\.weight$", 0.0, "the score head is 0")]:
        own = [tensor for name, tensor in tensors.items() if re.search(pattern, name) and tensor.numel()]
        if any(bool((tensor != start).any()) for tensor in own):
            found = []
            break
        found += [stands] if own else []
    downs = [tensor for name, tensor in tensors.items() if ".lora_A." in name and tensor.numel()]
    if downs and not any(bool(tensor.any()) for tensor in downs):  # MiCA's start, whose lora_B is not 0
        found.append("every lora_A is 0")
    return found[0] if found else ""


def _name_in_file(name: str) -> str:
    """peft 0.20's name in the file: without the adapter's own name, copies of whole modules under the module's name."""
    if name == PARAMETER:
        return IN_FILE
    name = name.replace(".modules_to_save.default.", ".").replace(".default.", ".").removesuffix(".default")
    return re.sub(r"\.lora_magnitude_vector\.weight$", ".lora_magnitude_vector", name)
