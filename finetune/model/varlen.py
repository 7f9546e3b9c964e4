"""Attention within documents through a device's own function, in models that ask transformers' table of attentions for one.

Whether a model's attention is what the function computes is found out by calling both: in one pass over a packed row each
layer's own queries, keys and values go through the model's eager attention with its mask, and through the function.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from finetune.errors import first_line
from finetune.model.agreement import Difference, compare

NAME, COMPARING = "documents", "documents_compared"  # in transformers' table
KEY = "_attn_implementation_internal"  # where a configuration keeps the name of its own
LENGTHS = (7, 5, 9)  # tokens of the compared documents
LARGEST_WINDOW = 512  # up to which one of them is made longer than the model's window
# What layers pass on that changes nothing: other words for where documents begin, and settings of the model's outputs.
HARMLESS = {"position_ids", "cu_seq_lens_k", "max_length_q", "max_length_k", "cache_position", "use_cache", "is_causal"}

# (q (B, H, T, D), k, v (B, G, T, D), bounds, scale, window) to (B, H, T, D)
Attention = Callable[..., torch.Tensor]


class NotUnderstoodError(Exception):
    """A layer asks for something that the function does not compute."""


def register(attention: Attention) -> None:
    """Puts the function into transformers' tables, under NAME; no model uses it by that."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, **settings: Any) -> tuple[torch.Tensor, None]:
        if mask is None:
            bounds, scale, window = _asked(module, q, k, v, settings)
            if not settings.get("dropout"):
                return attention(q, k, v, bounds, scale, window).transpose(1, 2), None
            mask = _square(q, bounds, window)  # weights are dropped, which the function never has
        # The model's own: with dropout, with padding that counts, or beside a cache.
        return _eager(module)(module, q, k, v, mask, **settings)

    # Compiled layers leave it alone: its loop is another one in every batch.
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    AttentionMaskInterface.register(NAME, _mask)


def _mask(**asked: Any) -> torch.Tensor | None:
    """None where causal within documents is all that is asked; else the eager mask."""
    from transformers.masking_utils import eager_mask

    lengths = {asked.get("q_length", asked.get("kv_length")), asked["kv_length"]}
    if (
        asked.get("attention_mask") is None
        and len(lengths) == 1
        and not asked.get("q_offset")
        and not asked.get("kv_offset")
    ):
        return None
    return eager_mask(**asked)


def _asked(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, settings: dict[str, Any]
) -> tuple[list[int], float, int | None]:
    """Bounds, scale and window, out of what a layer passes on; whether weights are dropped is the caller's to see.

    Raises:
        NotUnderstoodError: something of it is not known.
    """
    asked = {name: value for name, value in settings.items() if value is not None and value is not False}
    scale = asked.pop("scaling", None) or q.shape[-1] ** -0.5
    window, bounds = asked.pop("sliding_window", None), asked.pop("cu_seq_lens_q", None)
    unknown = sorted(asked.keys() - HARMLESS - {"dropout"})
    if k.shape[2] != q.shape[2] or k.shape[-1] != q.shape[-1] or v.shape[-1] != q.shape[-1]:
        unknown.append("keys and values of other sizes than the queries")
    if unknown:
        raise NotUnderstoodError(f"{type(module).__name__} asks for {', '.join(unknown)}")
    return [0, q.shape[2]] if bounds is None else bounds.tolist(), float(scale), window


def _square(q: torch.Tensor, bounds: list[int], window: int | None) -> torch.Tensor:
    """(1, 1, T, T), what is added to scores: 0 where causal within documents and the window, the lowest number elsewhere."""
    place = torch.arange(q.shape[2], device=q.device)
    document = torch.bucketize(place, torch.tensor(bounds[1:-1], device=q.device), right=True)
    seen = (place[:, None] >= place) & (document[:, None] == document)
    if window is not None:
        seen &= place[:, None] - place < window
    lowest = torch.finfo(q.dtype).min
    return torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, lowest)[None, None]


def _eager(module: Any) -> Any:
    """The eager attention that the layer would call, as its file has it."""
    return inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]


def attention_difference(model: Any, attention: Attention, device: torch.device) -> tuple[int, Difference]:
    """How many layers ask the table, and the largest difference over them, of outputs and gradients, in float32.

    Run in eval mode; no random state is touched.
    """
    found: list[Difference] = []

    def record(module: Any, q: Any, k: Any, v: Any, mask: Any, **settings: Any) -> Any:
        asked, plain = _asked(module, q, k, v, settings), _eager(module)

        def eager(*inputs: torch.Tensor) -> torch.Tensor:
            return plain(module, *inputs, mask.float(), **settings)[0].transpose(1, 2)

        def ours(*inputs: torch.Tensor) -> torch.Tensor:
            return attention(*inputs, *asked)

        inputs = [tensor.float() for tensor in (q, k, v)]
        found.append(compare(eager, ours, inputs, by_row=False))  # a first token's dq is 0
        return plain(module, q, k, v, mask, **settings)

    problem = ""
    try:
        _pass_over(model, record, device)
    except NotUnderstoodError as error:
        problem = str(error)
    except (KeyError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # custom code's, mostly
        problem = f"raises {type(error).__name__}: {first_line(error)}"
    if problem:
        return max(1, len(found)), Difference(math.inf, 0.0, problem)
    if not found:
        return 0, Difference(math.inf, 0.0, "nothing asks for it")
    return len(found), max(found, key=lambda difference: difference.value)  # without a result it is infinite


def _pass_over(model: Any, record: Any, device: torch.device) -> None:
    """One forward pass of a packed row through the decoder, its attention being `record`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(COMPARING, record)
    AttentionMaskInterface.register(COMPARING, eager_mask)
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    lengths = (*LENGTHS[:2], LENGTHS[2] + (window if window <= LARGEST_WINDOW else 0))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (1, sum(lengths)), generator=draw)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    modes = [(module, module.training) for module in model.modules()]
    places = implementations(model)
    before = [place[KEY] for place in places]
    try:
        model.eval()
        for place in places:
            place[KEY] = COMPARING
        with torch.no_grad():
            model.get_decoder()(
                input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False,
                cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=max(lengths), max_length_k=max(lengths),
            )  # fmt: skip
    finally:
        for place, name in zip(places, before, strict=True):
            place[KEY] = name
        for module, training in modes:
            module.training = training


def implementations(model: Any) -> list[dict[str, Any]]:
    """The namespaces of all configurations that name an attention, of the model and its parts, each once."""
    found = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and KEY in vars(config):
            found[id(config)] = vars(config)
    return list(found.values())
