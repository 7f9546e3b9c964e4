"""An adapter file reopened after it was written: what was trained is in it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import GateError
from finetune.model.adapter import SCORE

Shape = tuple[int, ...]


def adapter_shapes(model: Any) -> dict[str, Shape]:
    """Names and shapes that peft's file of this model's adapter must have, from the parameters that belong to it.

    A parameter that is spread over processes counts with its whole shape.
    """
    from finetune.fullstate import adapter_parameters, turned_halves

    shapes = {}
    for name, parameter in adapter_parameters(model):
        shapes[_name_in_file(name)] = tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3's own word for it
    for name, module in turned_halves(model).items():
        shapes[_name_in_file(name)] = tuple(module.weight.shape)
    return shapes


def check_adapter(folder: Path, expected: Mapping[str, Shape], trained: bool) -> None:
    """Reopens `folder/adapter_model.safetensors`.

    Args:
        expected: names and shapes, as from `adapter_shapes`.
        trained: whether a step has been made, so that the B matrices and a score head, which start at 0, can't
            all be 0 any more (after one step the head alone is not: it is what B gets its gradient through).

    Raises:
        GateError: no such file, a tensor missing, unknown, empty, of another shape or not finite, or all B still 0;
            it names the tensors.
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
    zero_at_start = re.compile(rf"\.lora_(B\.|embedding_A$)|\.{SCORE}\.weight$")
    start_at_zero = [tensor for name, tensor in tensors.items() if zero_at_start.search(name) and tensor.numel()]
    if trained and start_at_zero and not any(bool(tensor.any()) for tensor in start_at_zero):
        problems.append("every lora_B is 0, as before training")
    downs = [tensor for name, tensor in tensors.items() if ".lora_A." in name and tensor.numel()]
    if trained and downs and not any(bool(tensor.any()) for tensor in downs):  # MiCA's start
        problems.append("every lora_A is 0, as before training")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise GateError(f"the saved adapter is not the trained one: {file}: {'; '.join(problems[:5])}{more}")


def _name_in_file(name: str) -> str:
    """peft 0.20's name in the file: without the adapter's own name, copies of whole modules under the module's name."""
    name = name.replace(".modules_to_save.default.", ".").replace(".default.", ".").removesuffix(".default")
    return re.sub(r"\.lora_magnitude_vector\.weight$", ".lora_magnitude_vector", name)
