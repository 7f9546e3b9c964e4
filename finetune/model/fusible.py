"""Modules that compute RMSNorm or SwiGLU, found by what they are made of and what they compute.

No class is known by name: a candidate by its parts is asked what it computes, and is taken where that is what the
formula gives. So custom code is found as well, and whatever computes something else (a norm that subtracts the mean,
another activation, dropout in between) stays as it is.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from finetune.device.kernels import Kernels
from finetune.model.agreement import Difference, compare

# A module's forward that calls the kernel that it is given: (kernel) to (module, x) to y.
Rewrite = Callable[[Any], Callable[[Any, torch.Tensor], torch.Tensor]]


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Zhang and Sennrich 2019, eq. 4, the mean in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype) * weight


def _swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Shazeer 2020, eq. 6, without the projections."""
    return F.silu(gate) * up


def _rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Su et al. 2021, eq. 34, with the pairs (i, i + D/2)."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    return turned(q), turned(k)


PLAIN = Kernels(_rms_norm, _swiglu, _rotary)  # what each kind is to compute


@dataclass(frozen=True)
class Form:
    """How a module computes a kind of op: `rewrite` of the plain op gives what the module gives.

    Attributes:
        kind: `rms_norm` or `swiglu`.
        width: of what goes in.
        what: its sizes, for people.
        gate: name of the layer that gives the gate, alone or beside the other factor.
        layers: names of gate, up and down, where these are three.
    """

    kind: str
    rewrite: Rewrite
    width: int
    what: str
    gate: str = ""
    layers: tuple[str, ...] = ()


def is_candidate(module: nn.Module, offered: Kernels) -> bool:
    """Whether the module has the parts of a kind that is offered. One with a forward of its own is left to its owner."""
    looks = (offered.rms_norm and _looks_like_norm(module)) or (offered.swiglu and _linear_children(module))
    return bool(looks) and "forward" not in vars(module)


def form_of(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Form | None:
    """What a candidate computes; None: something else than its parts let hope.

    Args:
        dtype: that training computes in.
    """
    if _looks_like_norm(module):
        probe, forms, dtype = norm_probe(module, device).float(), _norm_forms(module), torch.float32
    else:
        probe, forms = on_device(module, device), _mlp_forms(_linear_children(module))
    with as_in_training(probe):
        for form in forms:
            plain = functools.partial(form.rewrite(getattr(PLAIN, form.kind)), probe)
            try:
                x = probe_input(probe, form, device, dtype)
            except Exception:  # a part that has a linear layer's sizes and is none
                continue
            if compare(probe, plain, [x], gradients=False).within:
                return form
    return None


def kernel_difference(
    module: nn.Module, form: Form, kernel: Any, device: torch.device, dtype: torch.dtype
) -> Difference:
    """Of the module with the kernel to the plain one, outputs and gradients (of a norm's weight too, where it trains)."""
    if form.kind == "rms_norm":
        probe = norm_probe(module, device)
        weights = [parameter for parameter in probe.parameters() if parameter.requires_grad]
    else:
        probe, weights = on_device(module, device), []
    with as_in_training(probe):
        x = probe_input(probe, form, device, dtype)
        return compare(probe, functools.partial(form.rewrite(kernel), probe), [x], weights)


def probe_input(module: nn.Module, form: Form, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(2, 4, D), its rows of lengths at which the formula shows.

    Of a norm: epsilon decides, counts a little, is nothing. Of a gate: around 0 every activation is a line, and far from
    it some are cut off.
    """
    x = drawn((2, 4, form.width), device, torch.float32, 2)
    if form.kind == "rms_norm":
        small = max(_epsilons(module)) ** 0.5
        lengths = [1.0, small, 4 * small, 30.0]
    else:
        with torch.no_grad():
            one = float(getattr(module, form.gate)(x.to(dtype)).float().std())
        lengths = [size / max(one, 1e-6) for size in (0.5, 2.0, 6.0, 12.0)]
    return (x * torch.tensor(lengths, device=device)[:, None]).to(dtype)


@contextmanager
def as_in_training(module: nn.Module) -> Iterator[None]:
    """For a while: in training mode, so that dropout shows, but for the linear layers (those of LoRA draw their own)."""
    modes = [(part, part.training) for part in module.modules()]
    linears = [child for child in module.children() if hasattr(child, "in_features")]
    try:
        module.train()
        for linear in linears:
            linear.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


# RMSNorm


def _looks_like_norm(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters())
    return (
        list(parameters) == ["weight"] and parameters["weight"].ndim == 1 and not any(True for _ in module.children())
    )


def _norm_forms(module: nn.Module) -> Iterator[Form]:
    """With each number that may be its epsilon, and with `weight` or (Gemma) `1 + weight` as the factor."""
    (size,) = next(module.parameters()).shape
    for epsilon in _epsilons(module):
        yield Form("rms_norm", _norm_rewrite(epsilon), size, f"{size}, epsilon {epsilon:g}")
        yield Form("rms_norm", _one_plus_rewrite(epsilon), size, f"{size}, epsilon {epsilon:g}, 1 + weight")


def _epsilons(module: nn.Module) -> set[float]:
    """Numbers whose names say so; torch's own where its `eps` is left open."""
    named = {name: value for name, value in vars(module).items() if "eps" in name}
    given = {value for value in named.values() if isinstance(value, float)}
    return given or ({torch.finfo(torch.float32).eps} if "eps" in named else set())


def _norm_rewrite(epsilon: float) -> Rewrite:
    def of(kernel: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
        def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
            dtype = torch.promote_types(x.dtype, module.weight.dtype)  # a weight that trains is float32
            return kernel(x.to(dtype), module.weight.to(dtype), epsilon)

        return forward

    return of


def _one_plus_rewrite(epsilon: float) -> Rewrite:
    """In float32, rounded once: a weight near 0 has digits that are lost beside a 1 in bfloat16."""

    def of(kernel: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
        def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
            return kernel(x.float(), 1.0 + module.weight.float(), epsilon).to(x.dtype)

        return forward

    return of


def norm_probe(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy on the device, with a weight that shows (a fresh one is all ones or all zeros)."""
    probe = copy.deepcopy(module).to(device)
    with torch.no_grad():
        weight: Any = probe.weight
        weight.copy_(drawn(weight.shape, device, weight.dtype, 1) * 0.2 + 0.7)
    return probe


# SwiGLU


def _linear_children(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Name to (in, out) of the linear children, two or three; nothing where other parts have parameters too.

    peft's layers around a linear one, and quantised ones, say their sizes in the same words.
    """
    found = {}
    for name, child in module.named_children():
        sizes = getattr(child, "in_features", None), getattr(child, "out_features", None)
        if all(isinstance(size, int) for size in sizes):
            found[name] = sizes
        elif any(True for _ in child.parameters()):
            return {}
    own = any(True for _ in module.parameters(recurse=False))
    return {} if own or len(found) not in (2, 3) else found  # type: ignore[return-value]


def _mlp_forms(sizes: dict[str, tuple[int, int]]) -> Iterator[Form]:
    """Every way in which the children may be gate, up and down; of two, the first gives gate and up side by side."""
    for names in permutations(sizes):
        *first, down = names
        wide, back = sizes[first[0]], sizes[down]
        if len(names) == 3 and sizes[first[1]] == wide and back == wide[::-1]:
            yield Form("swiglu", _three_rewrite(*names), wide[0], f"{wide[0]} to {wide[1]}", names[0], names)
        if len(names) == 2 and (wide[0], wide[1]) == (back[1], 2 * back[0]):
            for gate_first in (True, False):
                what = f"{wide[0]} to 2 x {back[0]}"
                yield Form("swiglu", _packed_rewrite(first[0], down, gate_first), wide[0], what, first[0])


def _three_rewrite(gate: str, up: str, down: str) -> Rewrite:
    def of(kernel: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
        def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
            return getattr(module, down)(kernel(getattr(module, gate)(x), getattr(module, up)(x)))

        return forward

    return of


def _packed_rewrite(gate_up: str, down: str, gate_first: bool) -> Rewrite:
    def of(kernel: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
        def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
            one, other = getattr(module, gate_up)(x).chunk(2, dim=-1)
            return getattr(module, down)(kernel(one, other) if gate_first else kernel(other, one))

        return forward

    return of


def drawn(shape: Any, device: torch.device, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Of a normal distribution, the same everywhere; no generator of the run moves."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(device=device, dtype=dtype)


def on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """The module itself where it lies there, else a copy."""
    here = all(parameter.device.type == device.type for parameter in module.parameters())
    return module if here else copy.deepcopy(module).to(device)
