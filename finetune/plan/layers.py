"""A decoder layer in the numbers that memory and time depend on, read off its skeleton."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The last linear layer of an attention or feed-forward block: its input is its own, that of the others is one tensor.
LAST = re.compile(r"(^|\.)(o_proj|down_proj|out_proj|c_proj|dense|dense_4h_to_h|fc2|fc_out|wo|w2)$")
NORM = re.compile(r"norm", re.IGNORECASE)


@dataclass(frozen=True)
class Adapted:
    """A linear layer with an adapter.

    Attributes:
        width: of its input. rank: numbers a token between its two halves, 0 where it has none.
        own: whether its input is a tensor of its own; else that of the adapted layer before it.
        last: of an attention or feed-forward block; the others read what a norm gives.
    """

    width: int
    rank: int
    own: bool
    height: int
    last: bool


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
        gated=any(re.search(r"gate", str(name)) for name, *_ in (*linear, *experts)),
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
        last = bool(LAST.search(name))
        own = last or parent not in read
        if not last:
            read.add(parent)
        rank = getattr(module, "r", None)
        ranks = [int(value) for value in rank.values()] if rank is not None and hasattr(rank, "values") else []
        found.append(Adapted(width, max(ranks, default=0), own, height, last))
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
