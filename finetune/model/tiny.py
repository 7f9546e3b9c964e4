"""A configuration made tiny: the same architecture with every kind of layer it has, at dimensions of a few dozen.

The rules are by the names of fields, as transformers and most custom code spell them, so that no architecture is listed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Config = dict[str, Any]

HIDDEN = 64  # width of the residual stream
WINDOW = 16  # tokens of a sliding window: the packing probe makes a document longer than it
FREQUENCIES = 4  # of a rotary embedding at least: three may be apart for text and the axes of an image
MOST_LAYERS = 8  # of a pattern that only a period describes
INITIALIZER = 0.125  # 1 / sqrt(HIDDEN): matrices that keep the size of what goes through them

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
WIDTHS = (
    "hidden_size",
    "n_embd",
    "d_model",
    "dim",
    "model_dim",
    "hidden_dim",
    "out_hidden_size",
    "word_embed_proj_dim",
)
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts", "n_experts")
HEAD_DIMS = ("head_dim", "attention_head_dim", "kv_channels")
CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "top_k_experts",
    "num_selected_experts",
)
# Largest values of single fields; a field that is smaller, or not there, stays as it is.
AT_MOST = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8,
    "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "moe_num_shared_experts": 1, "num_shared_expert": 1,
    "num_shared_experts": 1, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "pretraining_tp": 1,
    "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "window_size": WINDOW, "moe_layer_start_index": 1,
}  # fmt: skip
FEED_FORWARD = re.compile(r"(intermediate_size|ffn_dim|n_inner|d_ff|ffn_hidden_size|mlp_dim)$")
OF_EXPERTS = re.compile(r"expert|moe")
PERIOD = re.compile(r"(_interval|_period|_pattern|_step|_frequency)$")
TOKEN = re.compile(r"_token_(id|index)$")


def shrink(config: Config, vocabulary: int, known_tokens: bool = True) -> Config:
    """A copy of a configuration, as `PreTrainedConfig.to_dict` gives it, made tiny.

    Args:
        vocabulary: how many ids the tokenizer has.
        known_tokens: whether it is the base's own tokenizer, so that the configuration's token ids are its ids.

    Kept as they are: whether embeddings are tied, attention biases, norms, activations, rope's kind and base frequency,
    the order of the layers' kinds. Gone: `quantization_config` (random weights are stored as they are computed).
    """
    small = _shrunk(config, vocabulary, known_tokens)
    for key, value in list(small.items()):
        if isinstance(value, dict) and key.endswith("_config"):
            small[key] = _shrunk(value, vocabulary, known_tokens)
    return small


def _shrunk(config: Config, vocabulary: int, known_tokens: bool) -> Config:
    """One level of it."""
    small = {key: value for key, value in config.items() if key != "quantization_config"}
    _fewer_layers(small)
    heads = _narrower(config, small)
    _fewer_experts(small)
    for key, most in AT_MOST.items():
        if _is_count(small.get(key)):
            small[key] = min(small[key], most)
    _linear_attention(config, small)
    _latent_attention(config, small)
    _head_dim(config, small, heads)
    for place in ("rope_parameters", "rope_scaling"):
        if isinstance(small.get(place), dict):
            small[place] = _rope(small[place], small, heads)
    _vocabulary(small, vocabulary, known_tokens)
    if "initializer_range" in small:
        small["initializer_range"] = INITIALIZER
    for key in ("dtype", "torch_dtype"):
        if key in small:
            small[key] = "float32"
    return small


def layers_to_keep(config: Config) -> list[int]:
    """Numbers of the layers that stay: at least two, and the first of every kind that lists or counts tell apart."""
    count = _first(config, LAYERS)
    if not count:
        return []
    lists = [config[key] for key in _per_layer(config, count)]
    dense = config.get("first_k_dense_replace") or config.get("moe_layer_start_index") or 0
    alone = set(config.get("mlp_only_layers") or ())
    seen: dict[Any, int] = {}
    for layer in range(count):
        experts = layer >= dense and layer not in alone
        seen.setdefault((experts, *(str(values[layer]) for values in lists)), layer)
    wanted = max(2, len(seen))
    if not lists:  # what repeats after so many layers
        periods = [value for key, value in config.items() if PERIOD.search(key) and _is_count(value)]
        wanted = max([wanted, *periods])
    wanted = min(wanted, count, max(MOST_LAYERS, len(seen)))
    kept = set(seen.values())
    for layer in range(count):
        if len(kept) >= wanted:
            break
        kept.add(layer)
    return sorted(kept)


def _per_layer(config: Config, count: int) -> list[str]:
    lists = [key for key, value in config.items() if isinstance(value, list | tuple) and len(value) == count > 1]
    return [key for key in lists if not TOKEN.search(key)]


def _fewer_layers(small: Config) -> None:
    count = _first(small, LAYERS)
    kept = layers_to_keep(small)
    if not kept:
        return
    for key in _per_layer(small, count):
        small[key] = [small[key][layer] for layer in kept]
    if small.get("mlp_only_layers"):
        small["mlp_only_layers"] = [place for place, layer in enumerate(kept) if layer in small["mlp_only_layers"]]
    for key in LAYERS:
        if _is_count(small.get(key)):
            small[key] = len(kept)
    for key in ("moe_layer_end_index", "max_window_layers"):
        if _is_count(small.get(key)):
            small[key] = min(small[key], len(kept) - 1)
    for key, value in small.items():  # numbers of layers that something is taken from
        if key.endswith(("_indexes", "_indices")) and isinstance(value, list) and value:
            small[key] = [place for place in value if place < len(kept)] or [len(kept) - 1]


def _narrower(config: Config, small: Config) -> int:
    """Widths and heads; how many heads there are now."""
    before = _first(config, WIDTHS)
    for key in WIDTHS:
        if _is_count(small.get(key)):
            small[key] = min(small[key], HIDDEN)
    for key, value in small.items():
        if FEED_FORWARD.search(key) and value:
            most = HIDDEN // 2 if OF_EXPERTS.search(key) else HIDDEN + HIDDEN // 2
            small[key] = [min(each, most) for each in value] if isinstance(value, list) else min(value, most)
    if before and _is_count(small.get("dim_model_base")):  # a divisor in proportion to the width
        small["dim_model_base"] = max(1, round(small["dim_model_base"] * HIDDEN / before))
    heads = _first(config, HEADS)
    groups = _first(config, KV_HEADS) or heads
    if not heads:
        return 0
    kv = min(groups, 4 if groups == heads else 2)
    now = kv if groups == heads else kv * 2
    small.update({key: now for key in HEADS if _is_count(small.get(key))})
    small.update({key: kv for key in KV_HEADS if _is_count(small.get(key))})
    return now


def _fewer_experts(small: Config) -> None:
    for keys, most in ((EXPERTS, 4), (CHOSEN, 2)):
        for key in keys:
            value: Any = small.get(key)
            if isinstance(value, list):
                small[key] = [min(each, most) for each in value]
            elif _is_count(value):
                small[key] = min(value, most)


def _linear_attention(config: Config, small: Config) -> None:
    """Heads of a linear attention: as many of each, or two values to a key."""
    keys, values = config.get("linear_num_key_heads"), config.get("linear_num_value_heads")
    if _is_count(keys) and _is_count(values):
        small["linear_num_key_heads"], small["linear_num_value_heads"] = 2, 2 if keys == values else 4


def _latent_attention(config: Config, small: Config) -> None:
    """Sums of the parts of a head (multi-head latent attention, arXiv 2405.04434, section 2.1)."""
    if _is_count(config.get("qk_rope_head_dim")) and _is_count(small.get("qk_head_dim")):
        small["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]


def _head_dim(config: Config, small: Config, heads: int) -> None:
    """The width of a head as it was to the whole: its share of it, or one of its own; what is equal to it stays so."""
    width = _first(config, WIDTHS)
    own = _first(config, HEADS)
    for key in HEAD_DIMS:
        before = _first(config, (key,))
        if not before or not heads:
            continue
        if _is_count(config.get("qk_rope_head_dim")):
            rope, nope = small["qk_rope_head_dim"], small.get("qk_nope_head_dim") or 0
            small[key] = rope if before == config["qk_rope_head_dim"] else rope + nope
        else:
            share = HIDDEN // heads * (1 if before * own == width else 2)
            small[key] = max(share, round(2 * FREQUENCIES / _partial(config)))
        if config.get("query_pre_attn_scalar") == before:
            small["query_pre_attn_scalar"] = small[key]


def _partial(config: Config) -> float:
    """The share of a head that is rotated."""
    rope = config.get("rope_parameters") or {}
    return rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0


def _rope(rope: Config, small: Config, heads: int) -> Config:
    """Lists with a number for each frequency cut to as many as there are now. Gemma 3 has one of these a kind of layer."""
    if rope and all(isinstance(value, dict) for value in rope.values()):
        return {kind: _rope(value, small, heads) for kind, value in rope.items()}
    head = small.get("qk_rope_head_dim") or small.get("head_dim") or HIDDEN // max(1, heads)
    partial = rope.get("partial_rotary_factor") or small.get("partial_rotary_factor") or 1.0
    frequencies = int(head * partial) // 2
    cut = dict(rope)
    for key in ("long_factor", "short_factor"):
        if isinstance(rope.get(key), list):
            cut[key] = _spread(rope[key], frequencies)
    sections = rope.get("mrope_section")
    if isinstance(sections, list):
        shares = [max(1, part * frequencies // sum(sections)) for part in sections]
        shares[0] += frequencies - sum(shares)
        cut["mrope_section"] = shares
    return cut


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values, evenly spread from the first to the last."""
    last = len(values) - 1
    return [values[round(place * last / max(1, count - 1))] for place in range(count)]


def _vocabulary(small: Config, vocabulary: int, known_tokens: bool) -> None:
    """Rows for the tokenizer's ids, and up to 64 more where the base has more rows than its tokenizer needs."""
    size = _first(small, ("vocab_size",))
    if not size:
        return
    small["vocab_size"] = size if size <= vocabulary else (vocabulary // 64 + 1) * 64
    last = vocabulary - 1
    for key, value in small.items():  # another tokenizer's ids, and ids that the tokenizer lacks
        if TOKEN.search(key) and value is not None:
            known = [each for each in ([value] if isinstance(value, int) else value) if known_tokens and each <= last]
            small[key] = (known or [last])[0] if isinstance(value, int) else known or [last]


def _first(config: Config, keys: Sequence[str]) -> int:
    """The first of these fields that holds a number above 0; 0 where none does."""
    return next((config[key] for key in keys if _is_count(config.get(key))), 0)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
