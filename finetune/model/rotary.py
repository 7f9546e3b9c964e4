"""Where a model's attention looks up the function that turns queries and keys by their positions, and what it computes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.model.agreement import Difference, compare
from finetune.model.fusible import PLAIN, drawn

NAME = "apply_rotary_pos_emb"  # what transformers, and custom code written after it, calls it


@dataclass(frozen=True)
class RotaryPlace:
    """A namespace in which attention layers look the function up.

    Attributes:
        namespace: of the file that defines them.
        modules: how many there are.
        widths: of the heads that are turned as a whole.
    """

    namespace: dict[str, Any]
    modules: int
    widths: frozenset[int]

    def function(self) -> Callable[..., Any]:
        return self.namespace[NAME]


def rotary_places(model: nn.Module) -> list[RotaryPlace]:
    """One for each file whose layers call the function; of a head that is turned in part there is no width."""
    turned = {2 * len(buffer) for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    spaces: dict[int, tuple[dict[str, Any], list[nn.Module]]] = {}
    for module in model.modules():
        forward = inspect.unwrap(type(module).forward)
        code, namespace = getattr(forward, "__code__", None), getattr(forward, "__globals__", {})
        if code is not None and NAME in code.co_names and callable(namespace.get(NAME)):
            spaces.setdefault(id(namespace), (namespace, []))[1].append(module)
    places = []
    for namespace, modules in spaces.values():
        heads = {module.head_dim for module in modules if isinstance(getattr(module, "head_dim", None), int)}
        places.append(RotaryPlace(namespace, len(modules), frozenset(turned & heads if heads else turned)))
    return places


def rotary_input(width: int, device: torch.device, dtype: torch.dtype, rows: int) -> list[torch.Tensor]:
    """q (2, 4, 5, width), k (2, 2, 5, width), and cos and sin (rows, 5, width) as a model makes them."""
    angle = drawn((rows, 5, width // 2), device, torch.float32, 4) * 3
    angle = torch.cat((angle, angle), dim=-1)
    q, k = drawn((2, 4, 5, width), device, dtype, 5), drawn((2, 2, 5, width), device, dtype, 6)
    return [q, k, angle.cos().to(dtype), angle.sin().to(dtype)]


def turns_halves(function: Callable[..., Any], width: int, device: torch.device) -> bool:
    """Whether it turns heads of this width by the pairs that `Kernels.rotary` turns."""
    inputs = rotary_input(width, device, torch.float32, 2)
    return compare(function, _called_so(PLAIN.rotary), inputs, gradients=False).within


def kernel_difference(
    function: Callable[..., Any], kernel: Any, widths: Iterable[int], device: torch.device, dtype: torch.dtype
) -> Difference:
    """The largest over the widths, and over angles for each row of a batch or the same for all."""
    found = [
        compare(function, _called_so(kernel), rotary_input(width, device, dtype, rows), inputs_with_gradient=2)
        for width in widths
        for rows in (1, 2)
    ]
    return max(found, key=lambda difference: difference.value)  # without a result it is infinite


def with_kernel(
    function: Callable[..., Any], kernel: Any, widths: frozenset[int], device: torch.device
) -> Callable[..., Any]:
    """The function with the kernel in the calls that were compared, and itself in all others.

    Another model of the same file may be in the process (a teacher, a merged model on the CPU).
    """
    turn = _called_so(kernel)

    @functools.wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 4 or kwargs:
            return function(*args, **kwargs)
        q, k, cos, sin = args
        fits = (
            (q.ndim, k.ndim, cos.ndim, sin.ndim) == (4, 4, 3, 3)
            and q.shape[-1] == k.shape[-1] == cos.shape[-1]
            and q.shape[-1] in widths
            and q.dtype == k.dtype == cos.dtype == sin.dtype
            and q.device.type == device.type
        )
        return turn(q, k, cos, sin) if fits else function(q, k, cos, sin)

    return apply


def _called_so(kernel: Any) -> Callable[..., Any]:
    """The kernel as attention layers call the function: with cos and sin (B, T, D)."""

    def apply(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return kernel(q, k, cos.unsqueeze(1), sin.unsqueeze(1))

    return apply
