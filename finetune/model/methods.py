"""The PEFT methods inside a model: how an adapted layer is known, and where what is trained starts. A row a method."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """One of peft's tuners that sit in layers.

    Attributes:
        part: what an adapted layer has and another one has not.
        moves: pattern of the names, in the adapter's file, of tensors that any step moves away from `start`, all of
            whose entries they begin with; `stands` says so where none has moved.
    """

    part: str
    moves: str
    start: float
    stands: str


METHODS: Mapping[str, Method] = {
    "lora": Method("lora_A", r"\.lora_(B\.|embedding_A$)", 0.0, "every lora_B is 0"),
    "ia3": Method("ia3_l", r"\.ia3_l$", 1.0, "every ia3_l is 1"),
    "oft": Method("oft_R", r"\.oft_R\.weight$", 0.0, "every oft_R is 0"),
    "vera": Method("vera_lambda_b", r"\.vera_lambda_b$", 0.0, "every vera_lambda_b is 0"),
}


def shared_tensors(model: Any) -> dict[str, Any]:
    """By their names in the model, what peft writes into the adapter's file beside what is trained: VeRA's A and B."""
    config = model.peft_config["default"]
    if config.peft_type != "VERA" or not config.save_projection:
        return {}
    return {f"base_model.vera_{half}.default": getattr(model.base_model, f"vera_{half}")["default"] for half in "AB"}


def drawn_matrices(key: int, rank: int, width: int, height: int) -> tuple[Any, Any]:
    """VeRA's shared A (rank, width) and B (height, rank) in float32, as peft draws them from `projection_prng_key`."""
    import torch
    from peft.tuners.vera.model import _kaiming_init

    draw = torch.Generator(device="cpu").manual_seed(key)
    return _kaiming_init((rank, width), draw), _kaiming_init((height, rank), draw)


def draw_again(model: Any) -> None:
    """VeRA's shared matrices as they were drawn: peft rounds them to the base's dtype on their way into its layers, so
    that neither the key nor another base would give those that are trained beside."""
    config, first, second = model.peft_config["default"], *(model.base_model.vera_A, model.base_model.vera_B)
    drawn = drawn_matrices(config.projection_prng_key, config.r, first["default"].shape[1], second["default"].shape[0])
    for held, exact in zip((first, second), drawn, strict=True):
        held["default"].copy_(exact)


def block_line(model: Any) -> str:
    """OFT's block sizes: where the width of a layer is no multiple of what was asked for, peft takes a near one."""
    sizes: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "oft_R"):
            kinds = sizes.setdefault(module.oft_block_size["default"], [])
            kinds += [kind] if (kind := name.rpartition(".")[2]) not in kinds else []
    return "; ".join(f"blocks of {size} in {', '.join(kinds)}" for size, kinds in sorted(sizes.items()))


@contextmanager
def quiet_methods() -> Iterator[None]:
    """Without those of peft's warnings that are answered here."""
    answered = (
        r"Invalid `(r|oft_block_size)`",  # block_line says it
        "fan_in_fan_out is set to",  # of a model that has both kinds of layers; peft sets it for each
        ".*ensure_weight_tying",  # that a tied layer trained whole can't be merged: export/merge.py unties it
        "Using Rank-Stabilized LoRA with rank_pattern",  # peft's conversion of residual starts; export/canon.py has another
    )
    with warnings.catch_warnings():
        for message in answered:
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        # peft looks for the patterns among modules only, not among parameters; model/targets.py has looked at both
        warnings.filterwarnings("ignore", message="The following .*_pattern keys did not", category=RuntimeWarning)
        yield
