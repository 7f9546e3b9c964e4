"""Our answer to each field of peft.LoraConfig: it passes, perhaps in a narrower type, or is refused and what to do instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune.peft_fields import COMMON, Problem, Row

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Alpha = Annotated[float, Field(gt=0)]
Names = Annotated[list[str], Field(min_length=1)]

PASSES = Row()
# `false` leaves B as random as A, so that the untrained adapter is noise; the data-driven ones are not in the type.
Start = (
    Literal[True, "gaussian", "orthogonal", "mica", "pissa", "olora", "loftq"]
    | Annotated[str, Field(pattern=r"^pissa_niter_\d+$")]
)
STARTS = "true, gaussian, orthogonal, mica, pissa, pissa_niter_N, olora, loftq"
RESIDUAL = ("pissa", "olora")  # they take the adapter's beginning out of the base's weights

NOT_OFFERED = {
    "eva": "draws A from the data and gives each layer its own rank; set rank_pattern yourself, or use pissa",
    "corda": "needs covariances of a calibration set; use pissa, which needs no data",
    "lora_ga": "needs gradients of a calibration set; use pissa, which needs no data",
    "False": "leaves the untrained adapter random, which is for peft's own tests; leave it out",
}

LORA_ROWS: Mapping[str, Row] = COMMON | {
    "exclude_modules": PASSES,
    "fan_in_fan_out": Row("is set from the layers themselves (true for Conv1D, false for others); leave it out"),
    "bias": PASSES,
    "use_rslora": PASSES,
    "modules_to_save": Row(type=Names, needed="a list of module names"),
    "init_lora_weights": Row(type=Start, needed=f"one of {STARTS}", not_these=NOT_OFFERED),
    "layers_to_transform": Row(type=Index | Annotated[list[Index], Field(min_length=1)], needed="layer numbers from 0"),
    "layers_pattern": PASSES,
    "rank_pattern": Row(type=dict[str, Count], needed="a mapping of patterns to whole numbers from 1"),
    "alpha_pattern": Row(type=dict[str, Alpha], needed="a mapping of patterns to numbers above 0"),
    "megatron_config": Row("is for models built of Megatron's layers, which transformers does not load; leave it out"),
    "megatron_core": Row("is for models built of Megatron's layers, which transformers does not load; leave it out"),
    "trainable_token_indices": Row(
        type=Annotated[list[Index], Field(min_length=1)] | dict[str, Annotated[list[Index], Field(min_length=1)]],
        needed="a list of token ids, or a mapping of layer names to such lists",
    ),
    "loftq_config": Row("has no effect: init_lora_weights: loftq takes the loss of model.quantization: nf4, once; leave it out"),
    "eva_config": Row("is for init_lora_weights: eva, which is not offered; leave it out"),
    "corda_config": Row("is for init_lora_weights: corda, which is not offered; leave it out"),
    "lora_ga_config": Row("is for init_lora_weights: lora_ga, which is not offered; leave it out"),
    "use_dora": PASSES,
    "velora_config": Row(
        "VeLoRA's gradient depends on how a batch is cut into micro-batches, so another machine would train another "
        "model; train.optim: lora_fa keeps no input of lora_A either"
    ),
    "alora_invocation_tokens": Row("an activated LoRA acts on some positions only, which no merged weight holds"),
    "use_qalora": Row("QALoRA pools the inputs for a GPTQ base and has no merged form; a plain LoRA on the quantised base"),
    "qalora_group_size": Row("is for use_qalora, which is not offered; leave it out"),
    "monteclora_config": Row("MonteCLoRA samples its weights and needs a term in the loss that is not there"),
    "layer_replication": Row("repeats layers, so that the merged model has another depth than its base; make such a base first"),
    "runtime_config": Row("is for bases that lie partly in the host's memory, which are not trained here; leave it out"),
    "lora_bias": PASSES,
    "target_parameters": Row(type=Names, needed="a list of parameter names"),
    "use_bdlora": Row("BD-LoRA's block-diagonal halves are not merged or proved here; a plain LoRA"),
    "arrow_config": Row("Arrow routes between trained adapters; export.adapters serves several beside each other"),
    "kasa_config": Row("KaSA truncates the base's weights and needs terms in the loss that are not there; use pissa"),
    "ensure_weight_tying": PASSES,
}  # fmt: skip

# What LoRA on one of two tied layers would do, and what can be done instead (peft issue 2018, 2777).
TIED_WAYS_OUT = (
    "the base's embedding and output layer are one tensor, and LoRA would change only one of the two: set "
    "lora.ensure_weight_tying: true with the embedding in target_modules (both train as one), leave the layer out, or "
    "train it by rows (lora.trainable_token_indices) or whole (lora.modules_to_save)"
)
# The same of methods that know no tying.
TIED_OTHERS = "the base's embedding and output layer are one tensor, and only one would be changed; leave the layer out"
# Settings that no plain pair of A and B can hold, so that the difference to the unchanged base can't be written.
NOT_RESIDUAL = (
    "use_dora", "bias", "lora_bias", "modules_to_save", "trainable_token_indices", "ensure_weight_tying",
)  # fmt: skip


def conflicts(settings: Mapping[str, Any]) -> list[Problem]:
    """Fields that don't go together, or have no effect; peft refuses some of them late, and is silent about others.

    Args:
        settings: of the section with its defaults, each of its own right type.
    """
    found = [*_starts(settings), *_narrowing(settings), *expert_conflicts(settings), *_patterns(settings)]
    if settings.get("lora_bias") and settings.get("use_dora"):
        found.append(("lora_bias", "does not go together with use_dora; set one of them to false"))
    if settings.get("lora_bias") and settings.get("init_lora_weights", True) is not True:
        found.append(("lora_bias", "goes with init_lora_weights: true only"))
    tokens = settings.get("trainable_token_indices") or ()
    for ids in tokens.values() if isinstance(tokens, dict) else [tokens]:
        if len(set(ids)) < len(ids):
            found.append(("trainable_token_indices", f"an id is there twice; got {ids!r}"))
    return [((key,), text) for key, text in found]


def lora_fa_problems(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """Why `train.optim: lora_fa` can't train this adapter: it freezes lora_A of plain pairs, W + s B A."""
    if kind != "lora":
        return [f"train.optim: lora_fa is for peft_type lora; it is {kind}"]
    why = {
        "use_dora": "DoRA divides by the norm of W + s B A, so that B's gradient is another",
        "target_parameters": "experts have their halves stacked in one matrix",
    }
    found = [f"train.optim: lora_fa: not with lora.{key}: {reason}" for key, reason in why.items() if settings.get(key)]
    if settings.get("init_lora_weights") == "mica":
        found.append(
            "train.optim: lora_fa: not with lora.init_lora_weights: mica, which freezes lora_B: nothing is left"
        )
    return found


def under_a_score_head(settings: Mapping[str, Any]) -> list[str]:
    """What does not go with a head that is trained whole beside the adapter, as `modules_to_save` are."""
    start = settings.get("init_lora_weights", True)
    residual = isinstance(start, str) and start.startswith(RESIDUAL)
    why = "not under a score head: the base can't be told apart then; use true, gaussian, orthogonal or mica"
    return [f"lora.init_lora_weights: {start}: {why}"] if residual else []


def _starts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    start = settings.get("init_lora_weights", True)
    found = []
    if isinstance(start, str) and start.startswith(RESIDUAL):
        plain: tuple[Any, ...] = ("none", None, False, [], {})
        found += [
            (key, f"not with init_lora_weights: {start}, whose base can't be told apart then; leave one of them out")
            for key in NOT_RESIDUAL
            if settings.get(key) not in plain
        ]
    if start == "orthogonal":
        ranks = {
            "r": settings["r"],
            **{f"rank_pattern.{k}": v for k, v in (settings.get("rank_pattern") or {}).items()},
        }
        found += [
            (key, f"init_lora_weights: orthogonal needs an even rank; got {r}") for key, r in ranks.items() if r % 2
        ]
    return found


def _narrowing(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, targets = [], settings["target_modules"]
    for key in ("layers_to_transform", "layers_pattern"):
        if settings.get(key) not in (None, []) and isinstance(targets, str):
            found.append((key, f"needs target_modules as a list of names; it is {targets!r}"))
    if settings.get("layers_pattern") and settings.get("layers_to_transform") is None:
        found.append(("layers_pattern", "has no effect without layers_to_transform: which of these layers"))
    if not targets and not settings.get("target_parameters"):
        found.append(("target_modules", "is empty; name layers, or parameters in target_parameters"))
    return found


def expert_conflicts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What peft can't do with parameters that are no layer."""
    if not settings.get("target_parameters"):
        return []
    found = [
        (key, "does not work on parameters (target_parameters); leave one of the two out")
        for key in ("lora_dropout", "use_dora", "lora_bias")
        if settings.get(key)
    ]
    start = settings.get("init_lora_weights", True)
    if start not in (True, "gaussian"):
        found.append(
            ("init_lora_weights", "for parameters (target_parameters) only true and gaussian are known to peft")
        )
    return found


def _patterns(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    words = {key: list(settings.get(key) or ()) for key in ("rank_pattern", "alpha_pattern")}
    for key in ("target_modules", "exclude_modules"):
        words[key] = [settings[key]] if isinstance(settings.get(key), str) else []
    found = []
    for key, patterns in words.items():
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                found.append((key, f"{pattern!r} is not a regular expression: {error}"))
    return found
