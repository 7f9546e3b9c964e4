"""A model in the numbers that memory and time depend on, read off its skeleton."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from finetune.plan.layers import Layer, layer_of
from finetune.plan.weights import stored_bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor that is trained, or frozen within the adapter."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    trained: bool

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Shape:
    """A base with its adapter.

    Attributes:
        parameters: of the base, each once. base: their bytes as they are held. largest: bytes of the largest matrix that
            is held in fewer bits, as it is multiplied; 0 where none is.
        adapter: its tensors, in the model's order. layers: in order.
        vocabulary: of the output layer, 0 under a score head. hidden: its input. head: its bytes.
        computes: bytes of a number in matrix products (2 under autocast to bfloat16).
        attention: transformers' word for it. prefix: virtual tokens before every row.
        head_trains: whether the output layer has a gradient of its own.
    """

    parameters: int
    base: int
    largest: int
    adapter: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    vocabulary: int
    hidden: int
    head: int
    computes: int
    attention: str
    prefix: int = 0
    head_trains: bool = False

    @cached_property
    def kinds(self) -> Mapping[Layer, int]:
        """The layers, alike ones together, and how many there are of each."""
        return Counter(self.layers)

    @cached_property
    def trained(self) -> int:
        """Numbers that are trained."""
        return sum(tensor.numel for tensor in self.adapter if tensor.trained)


def shape_of(model: Any, quantised: tuple[str, dict[str, Any]] | None, computes: int) -> Shape:
    """The numbers of a skeleton.

    Args:
        model: a peft model, or a base without adapter (a teacher), on meta.
        quantised: the method and its settings that linear layers are held by; see weights.stored_bytes.
        computes: bytes of a number in matrix products.
    """
    from finetune.fullstate import adapter_parameters

    peft = hasattr(model, "peft_config")
    base = model.get_base_model() if peft else model
    adapter = {id(p): (name, p) for name, p in adapter_parameters(model)} if peft else {}
    weights = {id(p): (n, p) for n, p in model.named_parameters() if id(p) not in adapter}
    packed = _packed(base, quantised, set(weights))
    held = {key: stored_bytes(p, quantised if key in packed else None) for key, (_, p) in weights.items()}
    extra = sum(b.numel() * b.element_size() for b in model.buffers())
    head = base.get_output_embeddings()
    rows = getattr(getattr(head, "base_layer", head), "weight", None)
    config = base.config.get_text_config()
    prompted = getattr(model.peft_config["default"], "num_virtual_tokens", 0) if peft else 0
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    return Shape(
        parameters=sum(p.numel() for _, p in weights.values()),
        base=sum(held.values()) + extra,
        largest=max((weights[key][1].numel() * computes for key in packed), default=0),
        adapter=tuple(
            Tensor(name, tuple(p.shape), p.numel() * p.element_size(), p.requires_grad) for name, p in adapter.values()
        ),
        layers=tuple(layer_of(layer, config, held) for layer in _layers(decoder)),
        vocabulary=rows.shape[0] if rows is not None else 0,
        hidden=config.hidden_size,
        head=rows.numel() * rows.element_size() if rows is not None else 0,
        computes=computes,
        attention=config._attn_implementation or "eager",
        prefix=prompted or 0,
        head_trains=head is not None and any(p.requires_grad for p in head.parameters()),
    )


def _layers(decoder: Any) -> Sequence[Any]:
    """The decoder layers: its longest list of modules."""
    from torch import nn

    lists: list[Any] = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=())


def _packed(base: Any, quantised: Any, known: set[int]) -> set[int]:
    """Ids of the weights that the method holds in fewer bits: of linear layers, but not of the output layer."""
    if quantised is None:
        return set()
    from torch import nn

    head = base.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    linear = [module for module in base.modules() if isinstance(module, nn.Linear) and module is not head]
    return {id(module.weight) for module in linear if module.weight.ndim == 2} & known
