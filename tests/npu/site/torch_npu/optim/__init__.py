"""torch_npu.optim: AdamW on one vector of all parameters of a dtype, with the conditions of the real NpuFusedAdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from torch_npu.border import to_cpu, to_npu

__all__ = ["NpuFusedAdamW"]
DTYPES = (torch.float32, torch.float16)


class NpuFusedAdamW(torch.optim.Optimizer):
    """AdamW whose parameters, gradients and moments lie one after another in vectors that are computed on as wholes.

    As of the real one: the parameters that have a gradient at the first `step` or `zero_grad` are those that are moved from
    then on; gradients are set to 0 and never taken away; a state that is loaded after the first `step` is not looked at.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False,
    ) -> None:  # fmt: skip
        if amsgrad:
            raise NotImplementedError("emulated npu: NpuFusedAdamW: amsgrad")
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        )
        self.is_fused_optimizer = True
        self.parts: list[list[_Part]] | None = None  # of each group, one a dtype
        self.moments_joined = False

    @torch.no_grad()
    def zero_grad(self, set_to_none: bool = False) -> None:
        """Raises ValueError for `set_to_none`: the gradients' memory is the optimizer's."""
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        self._join()
        if self.parts is None:
            super().zero_grad(set_to_none=False)
            return
        for part in self._all_parts():
            part.gradient.zero_()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else closure()
        self._join()
        if not self.moments_joined:
            for part in self._all_parts():
                part.join_moments(self.state)
            self.moments_joined = self.parts is not None
        for group, parts in zip(self.param_groups, self.parts or [], strict=False):
            for part in parts:
                part.step(group, self.state)
        return loss

    def _all_parts(self) -> list[_Part]:
        return [part for parts in self.parts or [] for part in parts]

    def _join(self) -> None:
        if self.parts is not None:
            return
        found = []
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in with_gradient:
                if parameter.dtype not in DTYPES:
                    raise TypeError(
                        f"Fused optimizer's parameters must be either float32 or float16, but received {parameter.dtype}"
                    )
            by_dtype = ([p for p in with_gradient if p.dtype == dtype] for dtype in DTYPES)
            found.append([_Part(parameters) for parameters in by_dtype if parameters])
        self.parts = found if any(found) else None


class _Part:
    """The parameters of one group and dtype in one vector, (sum of their sizes,), and their gradients in another."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self.parameters = parameters
        self.weight = _joined(parameters)
        self.gradient = _joined([parameter.grad for parameter in parameters if parameter.grad is not None])
        self.taken = 0

    def join_moments(self, states: Any) -> None:
        """From what a checkpoint brought, or from nothing."""
        for parameter in self.parameters:
            state = states[parameter]
            if not state:
                state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].clone() if name in state else torch.zeros_like(parameter)
        self.mean = _joined([states[parameter]["exp_avg"] for parameter in self.parameters])
        self.square = _joined([states[parameter]["exp_avg_sq"] for parameter in self.parameters])
        self.taken = int(states[self.parameters[0]]["step"])

    def step(self, group: dict[str, Any], states: Any) -> None:
        for parameter in self.parameters:
            states[parameter]["step"] += 1
        self.taken += 1
        first, second = group["betas"]
        self.weight.mul_(1 - group["lr"] * group["weight_decay"])
        self.mean.mul_(first).add_(self.gradient, alpha=1 - first)
        self.square.mul_(second).addcmul_(self.gradient, self.gradient, value=1 - second)
        spread = (self.square.sqrt() / math.sqrt(1 - second**self.taken)).add_(group["eps"])
        self.weight.addcdiv_(self.mean, spread, value=-group["lr"] / (1 - first**self.taken))


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A vector of all of them, in which they lie from now on.

    Raises:
        RuntimeError: a tensor that is not on the device, is not contiguous, or is a part of another one (a gradient in a
            bucket of DDP): the real one takes whole storages.
    """
    for tensor in tensors:
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if tensor.device.type != "npu" or not tensor.is_contiguous() or not whole:
            raise RuntimeError(
                "emulated npu: tensors to combine must be on the device, contiguous, with storages of their own"
            )
    joined = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    at = 0
    for tensor in tensors:
        # With a storage of its own on the same memory, as after the real npu_change_data_ptr.
        tensor.data = to_npu(to_cpu(joined[at : at + tensor.numel()]).view(tensor.shape), tensor.device.index)
        at += tensor.numel()
    return joined
