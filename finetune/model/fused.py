"""A model's norms, MLPs, LoRA layers, attention and rotary embeddings as the device has them fused, each compared with the
plain one first.

Nothing of it stays: outside the context of a `Fused` the model, and transformers, are what they were. Parameters, their
names and the state dict are the same inside.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune.device.kernels import Kernels
from finetune.model import fusible, lora_layers, lora_product, rotary, varlen
from finetune.model.agreement import Difference
from finetune.model.fusible import form_of, is_candidate

KINDS = ("rms_norm", "swiglu", "rotary", "lora", "attention")  # fields of Kernels


@dataclass(frozen=True)
class Change:
    """A name that stands for something else for a while: a module's `forward`, a function of a file."""

    holder: dict[str, Any]
    name: str
    value: Any
    before: Any = None  # None: there was none

    def undo(self) -> None:
        if self.before is None:
            del self.holder[self.name]
        else:
            self.holder[self.name] = self.before


class Fused:
    """A context in which a model computes with the fused ops that agree with its plain ones; empty, it changes nothing.

    Attributes:
        about: kind to how many modules are fused, the largest difference, and what stays plain and why; for the manifest.
    """

    def __init__(self, changes: Sequence[Change] = (), about: dict[str, Any] | None = None) -> None:
        self.about = about or {}
        self._changes = list(changes)
        self._made: list[Change] = []

    def __enter__(self) -> Fused:
        assert not self._made, "already fused"
        for change in self._changes:
            change.holder[change.name] = change.value
            self._made.append(change)
        return self

    def __exit__(self, *_error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """The model as it was, bit for bit."""
        while self._made:
            self._made.pop().undo()


@dataclass
class Findings:
    """What was compared, by kind."""

    found: dict[str, list[tuple[str, int, Difference]]] = field(default_factory=dict)

    def add(self, kind: str, what: str, modules: int, difference: Difference) -> bool:
        """Notes a comparison; whether the kernel is to be used."""
        self.found.setdefault(kind, []).append((what, modules, difference))
        return difference.within

    def record(self, kind: str) -> dict[str, Any]:
        """Of one kind, for the manifest."""
        used = [(modules, its.value) for _what, modules, its in self.found.get(kind, []) if its.within]
        left = [
            {"what": what, "modules": modules, "because": its.line()}
            for what, modules, its in self.found.get(kind, [])
            if not its.within
        ]
        told: dict[str, Any] = {"modules": sum(modules for modules, _value in used)}
        if used:
            told["max_difference"] = max(value for _modules, value in used)
        return told | ({"plain": left} if left else {})

    def lines(self, offered: Sequence[str]) -> Iterator[str]:
        """For the console: what is fused, then what is not, with the numbers."""
        parts = []
        for kind in offered:
            told = self.record(kind)
            if told["modules"]:
                parts.append(f"{kind} x{told['modules']} (differs by {told['max_difference']:.1e})")
            elif "plain" not in told:
                parts.append(f"{kind} nowhere: nothing of its form")
        if parts:
            yield f"fused ops: {', '.join(parts)}"
        for kind in offered:
            for left in self.record(kind).get("plain", []):
                where = f"{kind} x{left['modules']} ({left['what']})"
                yield f"fused ops: {where} stays plain: the device's op {left['because']}"


def fuse(
    model: nn.Module, kernels: Kernels, dtype: torch.dtype, device: torch.device, say: Callable[[str], None]
) -> Fused:
    """What of a model the device's fused ops can do, each compared on random inputs: outputs and gradients.

    To be called with the adapter in place; the model may still lie elsewhere than on `device` (copies of single modules
    are compared). Nothing is changed before the result is entered.

    Args:
        dtype: that training computes in, under autocast.
        say: told what is fused, and what differs by how much and so stays plain.
    """
    offered = [kind for kind in KINDS if getattr(kernels, kind)]
    if not offered:
        return Fused()
    findings = Findings()
    half = dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(device.type, dtype if half else None, enabled=half):
        changes = [*_in_modules(model, kernels, dtype, device, findings)]
        if kernels.rotary:
            changes += _in_attention(model, kernels.rotary, dtype, device, findings)
    if kernels.lora:
        changes += _in_lora(model, device, findings)
    if kernels.attention:
        changes += _attention(model, kernels.attention, device, findings)
    for line in findings.lines(offered):
        say(line)
    return Fused(changes, {kind: findings.record(kind) for kind in offered})


def _in_modules(
    model: nn.Module, kernels: Kernels, dtype: torch.dtype, device: torch.device, findings: Findings
) -> Iterator[Change]:
    """Modules that are alike are decided upon together."""
    alike: dict[Any, list[nn.Module]] = {}
    for module in model.modules():
        if is_candidate(module, kernels):
            alike.setdefault(_likeness(module), []).append(module)
    for modules in alike.values():
        form = form_of(modules[0], device, dtype)
        if form is None:
            continue
        kernel = getattr(kernels, form.kind)
        if kernels.lora and lora_layers.are_layers_of(modules[0], form.layers):
            with torch.autocast(device.type, enabled=False):
                difference = lora_layers.mlp_difference(modules[0], form, device)
            if findings.add("lora", f"MLP of {form.what}", len(modules), difference):
                yield from _each(
                    modules, lora_layers.mlp_forward(form.layers), device, lora_layers.mlp_is_on(form.layers)
                )
                continue
        difference = fusible.kernel_difference(modules[0], form, kernel, device, dtype)
        if findings.add(form.kind, form.what, len(modules), difference):
            yield from _each(modules, form.rewrite(kernel), device)


def _each(
    modules: Sequence[nn.Module],
    fused: Callable[[Any, torch.Tensor], torch.Tensor],
    device: torch.device,
    usable: Callable[[Any], bool] | None = None,
) -> Iterator[Change]:
    """The modules computing so, those of LoRA where they are `usable` at that moment."""
    forward = _guarded(fused, device, usable or (lambda module: True))
    forward.as_trained = usable is not None  # type: ignore[attr-defined]
    return (Change(vars(module), "forward", types.MethodType(forward, module)) for module in modules)


def _in_lora(model: nn.Module, device: torch.device, findings: Findings) -> Iterator[Change]:
    """LoRA layers of the plain kind, those of fused MLPs too: with an adapter off, the MLP calls them."""
    alike: dict[Any, list[nn.Module]] = {}
    for module in model.modules():
        if lora_product.fits(module):
            alike.setdefault(_likeness(module), []).append(module)
    for modules in alike.values():
        difference = lora_layers.layer_difference(modules[0], device)
        if findings.add("lora", lora_layers.sizes(modules[0]), len(modules), difference):
            yield from _each(modules, lora_product.lora_forward, device, lora_product.is_on)


def _attention(model: Any, attention: Any, device: torch.device, findings: Findings) -> Iterator[Change]:
    """The function in place of the attention that the configurations name."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    modules, difference = varlen.attention_difference(inner, attention, device)
    if modules and findings.add("attention", "documents apart", modules, difference):
        varlen.register(attention)
        for place in varlen.implementations(inner):
            yield Change(place, varlen.KEY, varlen.NAME, place[varlen.KEY])


def _in_attention(
    model: nn.Module, kernel: Any, dtype: torch.dtype, device: torch.device, findings: Findings
) -> Iterator[Change]:
    for place in rotary.rotary_places(model):
        function = place.function()
        widths = frozenset(width for width in place.widths if rotary.turns_halves(function, width, device))
        if not widths:
            continue
        difference = rotary.kernel_difference(function, kernel, widths, device, dtype)
        heads = "heads of " + ", ".join(map(str, sorted(widths)))
        if findings.add("rotary", heads, place.modules, difference):
            fused = rotary.with_kernel(function, kernel, widths, device)
            yield Change(place.namespace, rotary.NAME, fused, function)


def _guarded(
    fused: Callable[[Any, torch.Tensor], torch.Tensor], device: torch.device, usable: Callable[[Any], bool]
) -> Callable[..., torch.Tensor]:
    """The class's own forward where the call is another than the one that was compared.

    A bound method of it is copied along with its module, so that a deep copy computes with its own weights.
    """

    def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and args[0].device.type == device.type and args[0].numel() and usable(module):
            return fused(module, args[0])
        return type(module).forward(module, *args, **kwargs)

    return forward


def computes_as_trained(module: nn.Module) -> bool:
    """Whether it is fused with LoRA in it, which answers can do without: what a backward saves is nothing to them."""
    return bool(getattr(vars(module).get("forward"), "as_trained", False))


def _likeness(module: nn.Module) -> Any:
    """The same for modules that compute the same: classes, settings, and forms of parameters. (Numbers of layers are int.)"""
    parts = [
        (
            name,
            type(part),
            tuple((k, v) for k, v in vars(part).items() if isinstance(v, str | float | bool) and k != "training"),
        )
        for name, part in module.named_modules()
    ]
    weights = [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in module.named_parameters()]
    return tuple(parts), tuple(weights)
