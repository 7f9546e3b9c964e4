"""A model in the numbers that memory and time depend on, read off its skeleton."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from finetune.plan.weights import stored_bytes

# The last linear layer of an attention or feed-forward block: its input is its own, that of the others is one tensor.
LAST = re.compile(r"(^|\.)(o_proj|down_proj|out_proj|c_proj|dense|dense_4h_to_h|fc2|fc_out|wo|w2)$")
NORM = re.compile(r"norm", re.IGNORECASE)


@dataclass(frozen=True)
class Adapted:
    """A linear layer with an adapter.

    Attributes:
        width: of its input. rank: numbers a token between its two halves, 0 where it has none.
        own: whether its input is a tensor of its own; else that of the adapted layer before it.
    """

    width: int
    rank: int
    own: bool
    height: int


@dataclass(frozen=True)
class Layer:
    """One decoder layer, widths in numbers a token.

    Attributes:
        hidden: of the residual stream. queries: all query heads. keys: all key heads. heads: how many queries' there are.
        feed: of the feed-forward between its two matrices, of the experts that a token goes to together.
        gated: whether the feed-forward multiplies two of them.
        norms: of all inputs of norms together.
        projected: whether an adapter reads what attention gives.
        window: tokens that attention looks back at most; 0: all.
        product: weights that a token is multiplied with.
        bytes: of its base weights.
    """

    hidden: int
    queries: int
    keys: int
    heads: int
    feed: int
    gated: bool
    norms: int
    projected: bool
    window: int
    product: int
    adapted: tuple[Adapted, ...]
    bytes: int


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
    )


def _layers(decoder: Any) -> Sequence[Any]:
    """The decoder layers: its longest list of modules."""
    from torch import nn

    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
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


def layer_of(layer: Any, config: Any, held: dict[int, int]) -> Layer:
    """One decoder layer; its experts, if any, count as those that a token goes to."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    linear = _linear(layer)
    chosen, experts = _experts(layer, config)
    norms = [
        (name, module.weight.numel())
        for name, module in layer.named_modules()
        if NORM.search(type(module).__name__) and getattr(module, "weight", None) is not None
    ]
    per_head = {"q": heads, "k": groups}
    window = getattr(layer, "sliding_window", None) or getattr(
        getattr(layer, "self_attn", None), "sliding_window", None
    )
    product = sum(o * i for _, o, i, _ in linear) + chosen * sum(o * i for _, o, i in experts)
    last = [i for name, _, i, _ in linear if re.search(r"(down_proj|c_proj|fc2|w2|dense_4h_to_h|fc_out)$", name)]
    feed = (max(last) if last else 0) + (chosen * min(i for _, _, i in experts) if experts else 0)
    return Layer(
        hidden=config.hidden_size,
        queries=heads * width,
        keys=groups * width,
        heads=heads,
        feed=feed,
        gated=any(re.search(r"gate", name) for name, *_ in (*linear, *experts)),
        norms=sum(
            n * per_head.get(name.rpartition(".")[2][:1], 1) if n == width != config.hidden_size else n
            for name, n in norms
        ),
        projected=any(
            "attn" in name and LAST.search(name) and hasattr(module, "lora_A") for name, *_, module in linear
        ),
        window=int(window or 0),
        product=product,
        adapted=tuple(_adapted(linear)),
        bytes=sum(held[id(p)] for p in layer.parameters() if id(p) in held),
    )


def _linear(layer: Any) -> list[tuple[str, int, int, Any]]:
    """(name, out, in, module) of each linear layer of the base in a decoder layer, adapted or not, experts left out."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    found = []
    for name, module in layer.named_modules():
        if "lora_" in name or name.endswith("base_layer") or ".experts." in f".{name}.":
            continue
        plain = module.base_layer if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer") else module
        if isinstance(plain, nn.Linear):
            found.append((name, plain.out_features, plain.in_features, module))
        elif type(plain).__name__ == "Conv1D":  # GPT-2's, its weight turned
            found.append((name, plain.weight.shape[1], plain.weight.shape[0], module))
    return found


def _adapted(linear: Sequence[tuple[str, int, int, Any]]) -> list[Adapted]:
    """Those with an adapter; neighbours under one parent that read the same tensor share it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found, read = [], set()
    for name, height, width, module in linear:
        if not isinstance(module, BaseTunerLayer):
            continue
        parent = name.rpartition(".")[0]
        own = bool(LAST.search(name)) or parent not in read
        if not LAST.search(name):
            read.add(parent)
        rank = getattr(module, "r", None)
        ranks = [int(value) for value in rank.values()] if hasattr(rank, "values") else []
        found.append(Adapted(width, max(ranks, default=0), own, height))
    return found


def _experts(layer: Any, config: Any) -> tuple[int, list[tuple[str, int, int]]]:
    """How many experts a token goes to, and (name, out, in) of one expert's matrices."""
    from finetune.model.tiny import CHOSEN, EXPERTS

    def first(names: Sequence[str]) -> int:
        return next((int(v) for n in names if isinstance(v := getattr(config, n, None), int) and v), 0)

    count, chosen = first(EXPERTS), first(CHOSEN)
    if not count:
        return 0, []
    found: dict[str, tuple[str, int, int]] = {}
    for name, parameter in layer.named_parameters():
        kind = re.sub(r"\.\d+\.", ".", name)
        if ".experts." not in f".{name}" or "lora_" in name or "bias" in name:
            continue
        if parameter.ndim == 3 and parameter.shape[0] == count:
            found[kind] = (kind, parameter.shape[1], parameter.shape[2])
        elif parameter.ndim == 2:
            found[kind] = (kind, parameter.shape[0], parameter.shape[1])
    return chosen, list(found.values())
