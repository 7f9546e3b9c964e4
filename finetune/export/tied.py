"""Embedding and output layer that share one tensor: which adapters pull them apart, and what each becomes then."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from finetune.export.changes import Adapter, Change
from finetune.export.ends import EMBEDDINGS, HEADS, is_tied
from finetune.export.weights import Stored, same_values


def is_output(name: str) -> bool:
    """Whether a tensor of this name is an output layer's."""
    return name.rpartition(".")[0].rpartition(".")[2] in HEADS


def tied_targets(config: dict[str, Any], adapter_config: dict[str, Any]) -> list[str]:
    """Targets of an adapter that lie on a tied tensor without being tied themselves, for a word at `check`.

    The merge unties such a model: both tensors are written, and `tie_word_embeddings` becomes false. With
    `ensure_weight_tying`, and with token ids trained alike in both, it stays tied and the list is empty.

    Args:
        config: the base's config.json.
        adapter_config: adapter_config.json, or the fields of peft.LoraConfig.
    """
    if not is_tied(config) or adapter_config.get("ensure_weight_tying"):
        return []
    named = list(adapter_config.get("modules_to_save") or ())
    targets = adapter_config.get("target_modules") or ()
    names = (*EMBEDDINGS, *HEADS)
    if isinstance(targets, str):
        named += [] if targets == "all-linear" else [n for n in names if re.fullmatch(targets, n)]
    else:
        named += list(targets)
    tokens = adapter_config.get("trainable_token_indices")
    if isinstance(tokens, dict):
        heads = [key for key in tokens if key.rpartition(".")[2] in HEADS]
        inputs = [key for key in tokens if key not in heads]
        if heads and not (inputs and tokens[inputs[0]] == tokens[heads[0]]):
            named += heads
    return sorted({name for name in named if name.rpartition(".")[2] in names})


def head_of_tied(adapter: Adapter, embedding: str, head: str) -> Change | None:
    """What happens to the output layer of a tied model when that differs from the embedding; None when they stay one.

    peft's rules, at the time of writing (0.21): tokens trained in the embedding are trained in what is tied to it; a layer
    in `modules_to_save` is a copy; LoRA on one does nothing to the other; `ensure_weight_tying` makes all of these one.
    """
    left = adapter.changes.get(embedding, Change())
    right = adapter.changes.get(head, Change())
    tokens_alone = left.tokens is not None and right.tokens is None
    if tokens_alone:
        right = replace(right, rows=left.rows, tokens=left.tokens)
    whole_alone = left.replaced is not None and right.replaced is None
    if whole_alone and (left.frozen or adapter.config.get("ensure_weight_tying")):
        right = replace(right, replaced=left.replaced, frozen=left.frozen)
    elif whole_alone and left.original is not None:
        right = replace(right, replaced=left.original)
    return None if _same(left, right) else right


def _same(left: Change, right: Change) -> bool:
    """Whether two changes of one tensor have the same result."""
    if not _equal(left.replaced, right.replaced) or not _equal(left.tokens, right.tokens):
        return False
    if left.tokens is not None and left.rows != right.rows:
        return False
    if left.magnitude is not None or right.magnitude is not None:
        return False
    if left.scaling != right.scaling or left.rotation != right.rotation:
        return False
    one, other = left.low_rank, right.low_rank
    if one is None or other is None:
        return one is other
    if one.scale != other.scale:
        return False
    if one.embedding == other.embedding:
        return _equal(one.down, other.down) and _equal(one.up, other.up)
    # delta of an embedding is (B A)^T = A^T B^T: its A^T is the output layer's lora_B, its B^T the other's lora_A
    return torch.equal(one.down.load().T, other.up.load()) and torch.equal(one.up.load().T, other.down.load())


def _equal(left: Stored | None, right: Stored | None) -> bool:
    if left is None or right is None:
        return left is right
    return same_values(left, right)
