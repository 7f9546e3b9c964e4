"""The proof for reward models: the merged folder, as anybody loads it, gives the rewards of the adapter that was scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.data.chat import Example
from finetune.errors import GateError
from finetune.export.parity import load_with_adapter
from finetune.model.load import Source
from finetune.model.score import SequenceScores

BATCH = 4  # rows that the merged model gets at once, filled up, so that it has to find the last token itself

# Largest difference of a reward that the merge may show, by the dtype of the merged weights, in units of the largest
# reward's size (of 1 where that is smaller). In float32 only the order of additions differs; the others round every
# weight once.
LIMITS = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}
# The same where the base is quantised, whose engines round activations otherwise.
QUANTISED_LIMIT = 0.2
# The same, on average, between the model that was evaluated (on its device, in the training dtype) and the adapter from
# disk in float32.
EVALUATED_LIMITS = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}


def prove_rewards(
    source: Source,
    adapter: Path,
    merged: Path,
    names: Sequence[str],
    examples: Sequence[Example],
    evaluated: Sequence[Sequence[float]] | None,
    evaluated_dtype: str,
    quantization: Mapping[str, Any] | None = None,
    binding: bool = True,
) -> dict[str, Any]:
    """Compares rewards of the two models as they lie on disk, both computed in float32.

    The merged one goes through transformers' own class, in batches filled up with its own tokenizer's padding.

    Args:
        names: of the rewards.
        evaluated: rewards of each example by the model that was evaluated; None when there is none.
        evaluated_dtype: the dtype it was computed in.
        quantization: how the base is quantised that the adapter belongs to; None: not at all.
        binding: false only measures; nothing stops.

    Returns:
        The differences, the limit they were held to (None where not binding), and the difference from the evaluated model.

    Raises:
        GateError: a difference is over its limit.
    """
    with_adapter = load_with_adapter(source, adapter, quantization, evaluated_dtype, names)
    before = torch.tensor(peft_rewards(with_adapter, examples)).double()  # (rows, aspects)
    del with_adapter
    dtype, rewards = _merged_rewards(merged, examples, source.trust_remote_code)
    after = torch.tensor(rewards).double()
    gaps, scale = (before - after).abs(), max(1.0, float(before.abs().max()))
    worst, limit = float(gaps.max()), (QUANTISED_LIMIT if quantization else LIMITS[dtype]) * scale
    if binding and not worst <= limit:  # also where it is no number
        raise GateError(
            f"export stopped: the merged model is not the adapter ({dtype}): max_reward_difference {worst:.3g}, "
            f"limit {limit:.3g}"
        )
    record: dict[str, Any] = {
        "dtype": dtype,
        "rows": len(examples),
        "rewards": list(names),
        "max_reward_difference": worst,
        "mean_reward_difference": float(gaps.mean()),
        "largest_reward": float(before.abs().max()),
        "limits": {"max_reward_difference": limit} if binding else None,
        "prompts": [
            {"where": example.where, "positions": len(example.ids), "max_reward_difference": float(gap.max())}
            for example, gap in zip(examples, gaps, strict=True)
        ],
    }
    if evaluated:
        record["evaluated"] = _held_to_evaluated(before, torch.tensor(evaluated).double(), evaluated_dtype, scale)
    return record


@torch.inference_mode()
def peft_rewards(model: Any, examples: Sequence[Example]) -> list[list[float]]:
    """(rows, aspects) of a peft model with a score head, one conversation at a time, so nothing is filled up."""
    scores = SequenceScores(model).eval()
    rows = (torch.tensor([example.ids], device=model.device) for example in examples)  # (1, T)
    return [scores(ids, torch.ones_like(ids))[0].tolist() for ids in rows]


@torch.inference_mode()
def _merged_rewards(
    folder: Path, examples: Sequence[Example], trust_remote_code: bool
) -> tuple[str, list[list[float]]]:
    """The dtype of the folder's weights, and its rewards (rows, aspects) in float32."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager", trust_remote_code=trust_remote_code
    )
    dtype = str(model.dtype).removeprefix("torch.")
    model = model.float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    found: list[list[float]] = []
    for rows in _batches(examples):
        batch = tokenizer.pad({"input_ids": [list(row.ids) for row in rows]}, return_tensors="pt")
        found += model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.tolist()
    return dtype, found


def _batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), BATCH):
        yield examples[start : start + BATCH]


def _held_to_evaluated(from_disk: torch.Tensor, evaluated: torch.Tensor, dtype: str, scale: float) -> dict[str, Any]:
    """The adapter on disk against the model in memory that got the scores."""
    gaps = (from_disk - evaluated).abs()
    mean, limit = float(gaps.mean()), EVALUATED_LIMITS[dtype] * scale
    if not mean <= limit:
        raise GateError(
            "export stopped: the adapter on disk is not the model that was evaluated: its rewards differ by "
            f"{mean:.3g} on average, limit {limit:.3g} ({dtype})"
        )
    return {
        "dtype": dtype, "mean_reward_difference": mean, "max_reward_difference": float(gaps.max()), "limit": limit,
    }  # fmt: skip
