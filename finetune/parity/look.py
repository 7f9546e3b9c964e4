"""What is looked at on a device: the outputs of modules, gradients, logits; kept in files, tensors on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from finetune.data.mixed import items_of_step
from finetune.fullstate import trainable
from finetune.model.speed import wrap
from finetune.stages.batch import collate_rows, model_inputs
from finetune.stages.mixture import shares_of
from finetune.step import micro_batches_of, share

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.ready import Ready
    from finetune.stages.base import Batch, Stage

POSITIONS = 64  # of a module's output, spread over the real tokens
ROWS, OF_A_ROW = 4, 16  # whose logits are kept, and at how many positions each
WHOLE = 1 << 22  # elements of a gradient up to which all of it is kept
MODULES, GRADIENTS = "modules.safetensors", "gradients.safetensors"
LOGITS = {"start": "logits_start.safetensors", "end": "logits_end.safetensors"}


class Outputs:
    """The first output of each watched module under gradient, in the order in which they came.

    Attributes:
        inside: the module that is being computed, for a run that ends in it.
    """

    def __init__(self, mask: torch.Tensor | None) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.inside = ""
        self._mask = mask

    @contextmanager
    def of(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        hooks = [hook for name, module in modules.items() for hook in self._hooks(name, module)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hooks(self, name: str, module: nn.Module) -> list[Any]:
        def enter(_module: nn.Module, _inputs: Any) -> None:
            self.inside = name

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if torch.is_grad_enabled():  # not the reference policy's pass
                self._keep(name, output)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _keep(self, name: str, output: Any) -> None:
        for index, tensor in enumerate(output if isinstance(output, tuple | list) else (output,)):
            key = f"{name}[{index}]" if index else name
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.dim() not in (2, 3):
                continue  # attention weights, a cache
            if tensor.numel() and key not in self.tensors:  # the head comes with no row first, see model/head.py
                self.tensors[key] = at_positions(tensor.detach().cpu(), self._mask)


def at_positions(output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(at most POSITIONS, D) of (B, T, D) or (M, D), in its own dtype.

    Args:
        mask: (B, T) of real tokens, heeded where the output has a row for each of B T.
    """
    rows = output.reshape(-1, output.shape[-1])
    places = torch.arange(len(rows))
    if mask is not None and mask.numel() == len(rows):
        places = mask.flatten().nonzero()[:, 0]
    return rows[spread(places, POSITIONS)].clone()


def spread(places: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of them, evenly, the first and the last among them."""
    if len(places) <= most:
        return places
    return places[torch.linspace(0, len(places) - 1, most).round().long()]


def watched(base: Any) -> dict[str, nn.Module]:
    """Modules by name: what the decoder is made of, of each layer its parts and theirs, and the output layer."""
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    found: list[nn.Module] = []
    for child in decoder.children():
        if not isinstance(child, nn.ModuleList):
            found.append(child)
            continue
        for layer in child:
            found += [layer, *layer.children(), *(inner for part in layer.children() for inner in part.children())]
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    found += [part for part in (head, getattr(base, "score", None)) if isinstance(part, nn.Module)]
    wanted = {id(module) for module in found}
    return {name: module for name, module in base.named_modules() if id(module) in wanted}


def without_dropout(model: nn.Module) -> None:
    """Nothing random in a forward pass: devices draw other numbers from the same seed."""
    for module in model.modules():
        if "dropout" in type(module).__name__.lower() and isinstance(getattr(module, "p", None), float):
            module.p = 0.0  # type: ignore[assignment]
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def first_batch(ready: Ready, placement: Placement, seed: int, global_batch: int, micro: int) -> tuple[Stage, Batch]:
    """The first micro-batch of the first step, on the device; of a mixture that of its first part with an item."""
    chosen = items_of_step(ready.examples, seed, 0, global_batch)
    part = shares_of(ready.stage, chosen)[0]
    batch = micro_batches_of(part.stage, part.items, 1, micro, 0)[0]
    return part.stage, batch


def modules_and_gradients(
    ready: Ready, placement: Placement, stage: Stage, batch: Batch, outputs: Outputs
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Forward and backward of one batch, nothing is changed.

    Returns:
        Gradients by parameter, and their names in the order in which they came.
    """
    device = placement.accelerator.device
    model = wrap(ready.model.to(device), ready.start).train()
    order: list[str] = []
    parameters = dict(trainable(model))
    hooks = [p.register_post_accumulate_grad_hook(_told(order, name)) for name, p in parameters.items()]
    count = stage.count(batch)
    share(model, stage, [batch], placement)
    placed = {name: tensor.to(device) for name, tensor in batch.items()}
    try:
        with outputs.of(watched(ready.model.get_base_model())), placement.autocast():
            value = stage.loss(model, placed).value
        outputs.inside = "the backward pass"
        (value / max(1, count)).backward()
    finally:
        for hook in hooks:
            hook.remove()
        model.release()
    found = {n: _part(p.grad.detach().cpu()) for n, p in parameters.items() if p.grad is not None}
    ready.model.zero_grad(set_to_none=True)
    return found, list(dict.fromkeys(order))


def _told(order: list[str], name: str) -> Any:
    return lambda _parameter: order.append(name)


def _part(gradient: torch.Tensor) -> torch.Tensor:
    """All of a gradient, or evenly spread rows of one that is large."""
    if gradient.numel() <= WHOLE:
        return gradient.contiguous()
    rows = gradient.reshape(-1, gradient.shape[-1])
    return rows[spread(torch.arange(len(rows)), max(1, WHOLE // rows.shape[-1]))].clone()


@torch.no_grad()
def logits(ready: Ready, placement: Placement) -> torch.Tensor:
    """(N, V) in float32 at trained positions of the first held-out rows (else of training rows); rewards (ROWS, K)."""
    device = placement.accelerator.device
    items: Sequence[Any] = (ready.held_out or ready.examples)[:ROWS]
    model = wrap(ready.model.to(device)).eval()
    found = []
    for example in (item.examples[0] for item in items):
        batch = collate_rows([example], pad_id=0)
        batch["kept"] = spread(batch["kept"], OF_A_ROW)
        placed = {name: tensor.to(device) for name, tensor in batch.items()}
        inputs = (placed["input_ids"], placed["attention_mask"]) if ready.rewards else model_inputs(placed)
        with placement.autocast():
            found.append(model(*inputs).float().cpu())
    model.release()
    ready.model.train()
    return torch.cat(found)


def keep(file: Path, tensors: dict[str, torch.Tensor], order: Sequence[str] | None = None) -> None:
    """Writes the tensors; `order` (default: theirs) is read back by `order_of`."""
    copies = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(copies, file, {"order": "\n".join(tensors if order is None else order)})
