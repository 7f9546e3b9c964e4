"""The proof: the merged model on disk answers like the adapter that was evaluated. Measured, recorded, binding."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.data.chat import IGNORED, Example
from finetune.errors import GateError
from finetune.model.load import Source, quantised_options


@dataclass(frozen=True)
class Prompt:
    """Differences along one conversation; see `Proof`."""

    where: str
    positions: int
    max_logit_difference: float
    mean_kl: float
    greedy_agreement: float


@dataclass(frozen=True)
class Proof:
    """Differences over all positions of the held-out conversations, both models computed in float32.

    Attributes:
        dtype: of the merged weights.
        max_logit_difference, mean_logit_difference: largest and mean absolute difference of any logit.
        mean_kl: mean over positions of KL(adapter || merged), in nats.
        greedy_agreement: share of trained positions where both choose the same next token.
        positions, greedy_positions: how many positions went into these.
        prompts: the same for each conversation.
    """

    dtype: str
    rows: int
    positions: int
    greedy_positions: int
    max_logit_difference: float
    mean_logit_difference: float
    mean_kl: float
    greedy_agreement: float
    prompts: tuple[Prompt, ...]


# Largest differences that the merge may show, by the dtype of the merged weights. In float32 only the order of
# additions differs; the others round every weight once (2^-8 for bfloat16, 2^-11 for float16), measured over some
# hundred positions of a 135M model at 5e-4 and 1e-5 nats of KL.
LIMITS = {
    "float32": {"max_logit_difference": 1e-3, "mean_kl": 1e-6, "greedy_agreement": 1.0},
    "float16": {"max_logit_difference": 0.5, "mean_kl": 5e-4, "greedy_agreement": 0.99},
    "bfloat16": {"max_logit_difference": 4.0, "mean_kl": 5e-3, "greedy_agreement": 0.97},
}

# A float32 logit may differ by more than its limit where the model makes much of little: by so many times what moving every
# weight by its last bit does to the same model on the same conversations. KL and greedy agreement keep their limits.
ROUNDINGS = 16.0

# The same where the adapter was trained on a 4-bit base and is merged into that base de-quantised: engines that compute
# from 4 bits round activations otherwise; measured at 5 of 789 greedy tokens on a 135M model.
QUANTISED_LIMITS = {"mean_kl": 2e-2, "greedy_agreement": 0.98}
# LLM.int8() rounds activations to eight bits as well, outside training, and a merged model does not: 2.2e-2 nats on a 135M
# model (docs/benchmarks/quantised.md), which no merge can take away.
INT8_LIMITS = {"mean_kl": 0.1, "greedy_agreement": 0.95}


def quantised_limits(quantization: Mapping[str, Any]) -> Mapping[str, float]:
    """The limits of a merge into a base as it was quantised."""
    eight = quantization["method"] == "int8" or bool(quantization["settings"].get("load_in_8bit"))
    return INT8_LIMITS if eight else QUANTISED_LIMITS


LOGITS = "logits"  # the tensor's name in the temporary files
# Mean absolute difference of the answer tokens' log-probabilities, in nats, between the model that was evaluated (on
# its device, in the training dtype) and the adapter from disk in float32: rounding, by the training dtype.
EVALUATED_LIMITS = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}


def prove(
    source: Source,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    evaluated: Sequence[Sequence[float]] | None = None,
    evaluated_dtype: str = "float32",
    quantization: Mapping[str, Any] | None = None,
    binding: bool = True,
) -> dict[str, Any]:
    """Compares the two models as they lie on disk, token by token along the reference conversations.

    One model is in memory at a time; the adapter's logits wait in a temporary file.

    Args:
        evaluated: `token_logprobs` of each example by the model that was evaluated; None when there is none.
        evaluated_dtype: the dtype it was computed in.
        quantization: how the base is quantised that the adapter belongs to; None: not at all.
        binding: false only measures; nothing stops.

    Returns:
        The proof, the limits it was held to (None where not binding), and the difference from the evaluated model.

    Raises:
        GateError: a difference is over its limit.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / f"{index}.safetensors" for index in range(len(examples))]
        with_adapter = load_with_adapter(source, adapter, quantization, evaluated_dtype)
        for example, file in zip(examples, files, strict=True):
            save_file({LOGITS: logits(with_adapter, example)}, file)
        del with_adapter
        model = AutoModelForCausalLM.from_pretrained(
            merged, attn_implementation="eager", trust_remote_code=source.trust_remote_code
        )
        dtype = str(model.dtype).removeprefix("torch.")
        model = model.float().eval()
        pairs = (
            (load_file(file)[LOGITS], logits(model, example)) for file, example in zip(files, examples, strict=True)
        )
        proof = compare(pairs, examples, dtype)
        from_disk = [answer_logprobs(load_file(file)[LOGITS], e) for file, e in zip(files, examples, strict=True)]
        limits = (quantised_limits(quantization) if quantization else LIMITS[dtype]) if binding else {}
        rounding = None
        if dtype == "float32" and proof.max_logit_difference > limits.get("max_logit_difference", math.inf):
            del model, pairs
            before = (load_file(file)[LOGITS] for file in files)
            rounding = difference_by_rounding(load_with_adapter(source, adapter), before, examples)
            bound = max(limits["max_logit_difference"], ROUNDINGS * rounding)
            limits = {**limits, "max_logit_difference": float(f"{bound:.3g}")}
    failed = [
        f"{name} {getattr(proof, name):.3g}, limit {limit:g}"
        for name, limit in limits.items()
        if not (getattr(proof, name) >= limit if name == "greedy_agreement" else getattr(proof, name) <= limit)
    ]
    if failed:
        rounded = limits == INT8_LIMITS
        why = (
            "; int8 rounds activations as well, which no merged model does: train with int8_weight_only"
            if rounded
            else ""
        )
        raise GateError(f"export stopped: the merged model is not the adapter ({dtype}): {'; '.join(failed)}{why}")
    record: dict[str, Any] = asdict(proof) | {"limits": limits or None}
    if rounding is not None:
        record["difference_by_rounding"] = rounding
    if evaluated:
        record["evaluated"] = _held_to_evaluated(from_disk, evaluated, evaluated_dtype)
    return record


def difference_by_rounding(model: Any, before: Iterable[torch.Tensor], examples: Sequence[Example]) -> float:
    """The largest difference of a logit that moving every weight by at most its last bit makes.

    Args:
        model: computes in float32; its matrices are moved, in place. before: its logits (T, V) along each example.
    """
    generator = torch.Generator().manual_seed(0)
    last_bit = torch.finfo(torch.float32).eps
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                moved = torch.empty_like(parameter).uniform_(-last_bit, last_bit, generator=generator)
                parameter.mul_(moved.add_(1.0))
    pairs = zip(before, (logits(model, example) for example in examples), strict=True)
    return max((left - right).abs().max().item() for left, right in pairs)


def prove_adapter(
    source: Source,
    adapter: Path,
    examples: Sequence[Example],
    evaluated: Sequence[Sequence[float]] | None,
    evaluated_dtype: str,
    quantization: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The adapter from disk on its base against the model that was evaluated, where nothing can be merged.

    Args:
        evaluated, evaluated_dtype, quantization: as for `prove`; without them it is only seen to load and to give finite logits.

    Raises:
        GateError: it is another model, or its logits are not finite.
    """
    model = load_with_adapter(source, adapter, quantization, evaluated_dtype)
    given = [logits(model, example) for example in examples]
    broken = [example.where for example, one in zip(examples, given, strict=True) if not one.isfinite().all()]
    if broken:
        raise GateError(f"export stopped: the adapter's logits are not finite for {', '.join(broken[:3])}")
    from_disk = [answer_logprobs(one, example) for one, example in zip(given, examples, strict=True)]
    told = _held_to_evaluated(from_disk, evaluated, evaluated_dtype) if evaluated else None
    return {"rows": len(examples), "positions": sum(len(example.ids) for example in examples), "evaluated": told}


def load_with_adapter(
    source: Source,
    adapter: Path,
    quantization: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    names: Sequence[str] = (),
) -> Any:
    """The adapter on its base, both from disk and computed in float32.

    Args:
        quantization: of the base that the adapter was trained on: it is quantised again, from weights in `dtype`.
        names: of rewards: the base is then under a score head, whose weights are the adapter's.
    """
    from peft import PeftModel

    from finetune.model.score import with_score_head
    from finetune.model.tokens import fit_to_adapter

    loaded = getattr(torch, dtype) if quantization else torch.float32
    options: dict[str, Any] = {"dtype": loaded, "attn_implementation": "eager"}
    base = source.load(**options, **quantised_options(quantization, loaded, "cpu"))
    if quantization:
        from finetune.model.quantise import compute_in_float32, settle

        settle(base)
        base = compute_in_float32(base)
    fit_to_adapter(base, adapter)
    base = with_score_head(base, names) if names else base
    with warnings.catch_warnings():  # peft's about tied layers, which the merge unties
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying", category=UserWarning)
        # nor about patterns of experts: it looks for them among modules, and these are parameters
        warnings.filterwarnings("ignore", message="The following .*_pattern keys did not", category=RuntimeWarning)
        return PeftModel.from_pretrained(base, str(adapter)).eval()


def _held_to_evaluated(
    from_disk: Sequence[Sequence[float]], evaluated: Sequence[Sequence[float]], dtype: str
) -> dict[str, Any]:
    """The adapter on disk against the model in memory that got the scores."""
    gaps = [
        abs(left - right)
        for row, told in zip(from_disk, evaluated, strict=True)
        for left, right in zip(row, told, strict=True)
    ]
    mean, limit = sum(gaps) / len(gaps), EVALUATED_LIMITS[dtype]
    if not mean <= limit:
        raise GateError(
            "export stopped: the adapter on disk is not the model that was evaluated: its answer tokens' "
            f"log-probabilities differ by {mean:.3g} nats on average, limit {limit:g} ({dtype})"
        )
    return {"dtype": dtype, "mean_logprob_difference": mean, "max_logprob_difference": max(gaps), "limit": limit}


def compare(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], examples: Sequence[Example], dtype: str) -> Proof:
    """The numbers. `pairs`: logits (T, V) of the adapter and of the merged model along each example."""
    prompts, total, entries, agreed_in_all, greedy = [], 0.0, 0, 0, 0
    for (before, after), example in zip(pairs, examples, strict=True):
        left, right = before.double(), after.double()  # (T, V)
        gaps = (left - right).abs()
        total, entries = total + gaps.sum().item(), entries + gaps.numel()
        log_left, log_right = left.log_softmax(-1), right.log_softmax(-1)
        kl = (log_left.exp() * (log_left - log_right)).sum().item() / len(example.ids)
        answer = _before_answer(example)
        agreed = int((left[answer].argmax(-1) == right[answer].argmax(-1)).sum())
        prompts.append(Prompt(example.where, len(example.ids), gaps.max().item(), kl, agreed / len(answer)))
        agreed_in_all, greedy = agreed_in_all + agreed, greedy + len(answer)
    positions = sum(prompt.positions for prompt in prompts)
    return Proof(
        dtype=dtype,
        rows=len(prompts),
        positions=positions,
        greedy_positions=greedy,
        # a number that is not one must not get lost: max() of Python drops it
        max_logit_difference=float(torch.tensor([prompt.max_logit_difference for prompt in prompts]).max()),
        mean_logit_difference=total / entries,
        mean_kl=sum(prompt.mean_kl * prompt.positions for prompt in prompts) / positions,
        greedy_agreement=agreed_in_all / greedy,
        prompts=tuple(prompts),
    )


@torch.inference_mode()
def logits(model: Any, example: Example) -> torch.Tensor:
    """(T, V), in the model's dtype, on the CPU; one conversation at a time, so no padding, and no virtual tokens."""
    ids = torch.tensor([example.ids], device=model.device)  # (1, T)
    return model(input_ids=ids, use_cache=False).logits[0, -len(example.ids) :].cpu().contiguous()


def answer_logprobs(scores: torch.Tensor, example: Example) -> list[float]:
    """Log-probability in nats of each trained token of the example, from logits (T, V)."""
    before = _before_answer(example)
    targets = torch.tensor(example.ids)[[position + 1 for position in before]]
    return scores[before].double().log_softmax(-1).gather(-1, targets[:, None])[:, 0].tolist()


def _before_answer(example: Example) -> list[int]:
    """Positions whose next token is trained."""
    return [position - 1 for position, label in enumerate(example.labels) if label != IGNORED and position > 0]
