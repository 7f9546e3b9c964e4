"""Log-probabilities of given tokens out of hidden states, a few rows of logits at a time: they are the widest tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Head = Callable[[torch.Tensor], torch.Tensor]  # hidden states (n, D) to logits (n, V)
Read = tuple[torch.Tensor, ...]  # of n rows: log p(target) (n,), whether the target is the likeliest (n,), entropy (n,)

# Logits at once: what the rows come to in float32 stays under 32 MiB, which on a CPU are still near when they are read
# again, and which malloc keeps. Wide models take 1/8 of their width in rows, or reading the head's weight would cost more
# than multiplying by it; all that a chunk holds is then half of that weight.
CHUNK, WIDE = 1 << 23, 8
# Of a head that trains, each chunk adds to a gradient of the weight's size: fewer and larger ones.
TRAINED = 4


def rows_at_once(width: int, vocabulary: int, trains: bool = False) -> int:
    """How many hidden states of `width` become logits at a time."""
    return max(1, CHUNK // vocabulary, width // WIDE) * (TRAINED if trains else 1)


def chunked_logps(
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    vocabulary: int,
    trains: bool,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Read:
    """As `read_logps` of all logits, with the gradient, of which no more than a chunk's are ever there.

    log p of a row depends on its own hidden state alone, so its derivative is computed with it, while the row's logits
    are there, and only multiplied later by what the loss makes of it: two matrix products by the head's weight and no
    third one to make the logits again. (Liger's fused cross-entropy, arXiv 2410.10989, section 3.2, does so for a mean
    over tokens.) Where the head itself trains, its gradient needs the loss, and a chunk is computed again for it, unless
    there is only one.

    Args:
        head: called with at most `rows_at_once` rows, and as often as needed.
        hidden: (N, D). targets: (N,). vocabulary: V.
        trains: whether logits have a gradient other than by `hidden`.
    """
    rows = rows_at_once(hidden.shape[1], vocabulary, trains)
    parts = list(zip(hidden.split(rows), targets.split(rows), strict=True))
    settings: dict[str, Any] = {"temperature": temperature, "with_entropy": with_entropy}
    if not torch.is_grad_enabled() or not (trains or hidden.requires_grad):
        return _joined([_looked_at(head(part), goal, **settings)[0] for part, goal in parts])
    if trains and len(parts) == 1:
        return _plainly(head, hidden, targets, **settings)
    if trains:
        again = partial(checkpoint, partial(_plainly, head, **settings), use_reentrant=False)
        return _joined([again(part, goal) for part, goal in parts])
    *found, slopes = _joined([_with_slope(head, part, goal, **settings) for part, goal in parts])
    return (_Known.apply(hidden, found[0], slopes), *found[1:])


def read_logps(logits: torch.Tensor, targets: torch.Tensor, temperature: float, with_entropy: bool) -> Read:
    """In float32 at least, with autograd's own gradient: log p(target) (N,) at `temperature`; whether the target is the
    first of the likeliest, (N,) bool; with `with_entropy`, that of the distribution at `temperature`, (N,) in nats.

    Args:
        logits: (N, V). targets: (N,).
    """
    logps = -F.cross_entropy(_wide(logits) / temperature, targets, reduction="none")
    with torch.no_grad():
        correct = logits.max(-1).indices == targets
        if not with_entropy:
            return logps, correct
        return logps, correct, _entropy(logits, torch.softmax(_wide(logits) / temperature, -1), temperature)


def _plainly(head: Head, hidden: torch.Tensor, targets: torch.Tensor, **settings: Any) -> Read:
    return read_logps(head(hidden), targets, **settings)


def _with_slope(
    head: Head, hidden: torch.Tensor, targets: torch.Tensor, temperature: float, with_entropy: bool
) -> Read:
    """What `_looked_at` reads, and the derivatives of the n log-probabilities by the n hidden states, (n, D)."""
    leaf = hidden.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(leaf)
    found, slope = _looked_at(logits.detach(), targets, temperature, with_entropy)
    # Probabilities less 1 at the target: the derivative of -T log p(target) by the logits.
    slope.scatter_add_(1, targets[:, None], slope.new_full((len(targets), 1), -1.0))
    with torch.autocast(leaf.device.type, enabled=False):
        (by_hidden,) = torch.autograd.grad(logits, leaf, slope.to(logits.dtype))
    return (*found, by_hidden.div_(-temperature))


@torch.no_grad()
def _looked_at(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, with_entropy: bool
) -> tuple[Read, torch.Tensor]:
    """What `read_logps` gives, in few passes over the logits and without gradient; and all probabilities (n, V)."""
    top = logits.max(-1)
    wide = _wide(logits.new_empty(0)).dtype
    given = logits if temperature == 1 else logits.to(wide) / temperature
    probabilities = torch.softmax(given, -1, dtype=wide)
    # log of the sum of exp(logit - highest), which is the probability of the highest turned over
    highest = probabilities.gather(1, top.indices[:, None]).log()
    apart = logits.gather(1, targets[:, None]).to(wide) - top.values[:, None].to(wide)
    found = ((apart / temperature + highest)[:, 0], top.indices == targets)
    if with_entropy:
        return (*found, _entropy(logits, probabilities, temperature)), probabilities
    return found, probabilities


def _entropy(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    logps = torch.log_softmax(_wide(logits) / temperature, -1)
    return -(probabilities * logps).nan_to_num(0.0).sum(-1)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _joined(parts: list[Read]) -> Read:
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


class _Known(torch.autograd.Function):
    """Numbers (N,) whose derivatives by the rows of `hidden` (N, D), each by its own, are known already: `slopes` (N, D)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, numbers: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slopes)
        return numbers.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * gradient[:, None]).to(slopes.dtype), None, None
