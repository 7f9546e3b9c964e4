"""The probe run before training on pairs: does the model give the same when what both answers begin with stands once?

It depends on the architecture (a recurrent layer carries the chosen answer into the rejected one), on its attention
and on the installed libraries, so nothing is looked up in a list: the model itself is asked, as training will call it.
"""

from __future__ import annotations

from typing import Any

import torch

from finetune.data.chat import IGNORED, Example
from finetune.data.items import Pair
from finetune.errors import first_line
from finetune.model.head import TrainedPositions
from finetune.model.isolation import LARGEST_WINDOW, TOLERANCE, eval_mode, transformers_model
from finetune.stages.base import Batch
from finetune.stages.batch import collate_rows, model_inputs, on_device
from finetune.stages.shared_rows import collate_shared

LENGTHS = ((7, 5, 6), (9, 4, 8))  # of each pair: what both begin with, the rest of the chosen one, of the rejected one


def sharing_problem(model: Any, dtype: torch.dtype, device: torch.device | str) -> str | None:
    """Why pairs are to be computed as two rows each; None where the shared row gives the same but for rounding.

    Two pairs (the second longer than the sliding window, if that is small) are computed both ways. Nothing of the first
    chosen answer may reach the rejected one or the second pair: that derivative must be exactly 0, in any dtype. Then
    logits must agree, and the gradients of all that trains, within what rounding explains (isolation.TOLERANCE).

    Args:
        model: the causal LM with its adapter; moved to `device`, used in eval mode and left in the mode it was in,
            without gradients. No random state is touched.
        dtype: what training computes in, under autocast.
    """
    device = torch.device(device)
    if next(model.parameters()).device.type != device.type:
        model.to(device)
    wrapped = TrainedPositions(model)
    half = dtype in (torch.bfloat16, torch.float16)
    try:
        with eval_mode(model), torch.autocast(device.type, dtype if half else None, enabled=half):
            return _problem(wrapped, device, TOLERANCE[dtype])
    finally:
        wrapped.release()


def _problem(wrapped: TrainedPositions, device: torch.device, tolerance: float) -> str | None:
    pairs = _pairs(transformers_model(wrapped))
    rows = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    alone = _results(wrapped, on_device(collate_rows(rows, pad_id=0), device))  # a model that fails here fails anyway
    try:
        batch = on_device(collate_shared(pairs, pad_id=0), device)
        if _leaks(wrapped, batch):
            return "lets the rejected answer see the chosen one"
        shared = _results(wrapped, batch)
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:  # NotImplementedError is one
        return f"refuses rows with a shared beginning ({first_line(error)})"
    for what, one, other in zip(("logits", "gradients"), alone, shared, strict=True):
        apart = float((one - other).norm() / one.norm())
        if not apart <= tolerance:  # not finite either
            return f"gives other {what} for rows with a shared beginning: they differ by {apart:.1%}"
    return None


def _pairs(base: Any) -> list[Pair]:
    """Random ones; the rests differ from their first token on."""
    vocabulary = base.get_input_embeddings().weight.shape[0]
    low = min(16, vocabulary // 2)  # the first ids, and the last ones, are often control tokens
    span = min(1000, vocabulary - low)
    window = getattr(base.config.get_text_config(), "sliding_window", None)
    further = window if window and window <= LARGEST_WINDOW else 0
    draw = torch.Generator().manual_seed(0)
    found = []
    for (shared, *rests), longer in zip(LENGTHS, (0, further), strict=True):
        prompt = (torch.randint(span, (shared + longer,), generator=draw) + low).tolist()
        first = int(torch.randint(span, (1,), generator=draw))
        sides = []
        for place, rest in enumerate(rests):
            ids = (torch.randint(span, (rest,), generator=draw) + low).tolist()
            ids[0] = (first + place) % span + low
            sides.append(Example((*prompt, *ids), (*(IGNORED,) * len(prompt), *ids), "probe"))
        found.append(Pair(*sides))
    return found


def _results(wrapped: TrainedPositions, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits less their mean over the words, row by row, and the gradient of all that trains; flat, in float64."""
    with torch.enable_grad():
        logits = wrapped(*model_inputs(batch))[batch["rows"].argsort(stable=True)]  # (N, V)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        slopes = torch.autograd.grad((logits * weights).sum(), trained, allow_unused=True) if trained else ()
    wide = logits.detach().cpu().double()  # a device may not compute in it
    flat = [slope.detach().cpu().double().flatten() for slope in slopes if slope is not None]
    gradient = torch.cat(flat) if flat else wide.new_ones(1)
    return (wide - wide.mean(-1, keepdim=True)).flatten(), gradient


def _leaks(wrapped: TrainedPositions, batch: Batch) -> bool:
    """Whether anything of the first chosen answer reaches the first rejected one or the second pair."""
    embedded: list[torch.Tensor] = []

    def cut(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = transformers_model(wrapped).get_input_embeddings().register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = wrapped(*model_inputs(batch))[batch["rows"] != 0]  # (N', V): of all but the first chosen one
            weights = torch.linspace(1, 2, logits.numel(), device=logits.device, dtype=logits.dtype)
            (slope,) = torch.autograd.grad((logits.flatten() * weights).sum(), embedded[-1])  # (1, T, D)
    finally:
        hook.remove()
    shared, rest, _other = LENGTHS[0]
    return bool(slope[0, shared : shared + rest].any())
