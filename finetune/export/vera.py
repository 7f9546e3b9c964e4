"""VeRA written as LoRA: the same low-rank update with the shared matrices and the trained vectors multiplied out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.model.methods import drawn_matrices

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
SHARED = ("base_model.vera_A", "base_model.vera_B")
VECTORS = (".vera_lambda_b", ".vera_lambda_d")
OWN = ("projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights")  # settings LoRA has not


def as_lora(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Path | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a plain LoRA adapter with the same function, of VeRA's own rank.

    delta = diag(lambda_b) B diag(lambda_d) A (arXiv 2310.11454, equation 2), A and B cut to the layer's width; so
    lora_B = diag(lambda_b) B and lora_A = diag(lambda_d) A, scaled by 1.

    Args:
        config, tensors: of the adapter, under peft's names.
        base: folder of the base: VeRA's file does not tell how many inputs a layer has.

    Raises:
        RecipeError: the base is not given or has no such layer, or a vector is missing.
    """
    modules = sorted({name.rpartition(".")[0] for name in tensors if name.endswith(VECTORS)})
    lone = [module for module in modules if any(module + half not in tensors for half in VECTORS)]
    if lone or not modules:
        raise RecipeError(f"adapter: {'a vector is missing: ' + ', '.join(lone[:5]) if lone else 'no VeRA tensors'}")
    if base is None:
        raise RecipeError("adapter: VeRA is written as LoRA beside its base: finetune export does it")
    widths = _widths(base, [module.removeprefix(PREFIX) for module in modules], bool(config.get("fan_in_fan_out")))
    outputs = [tensors[module + VECTORS[0]].shape[0] for module in modules]
    first, second = _shared(config, tensors, max(widths), max(outputs))
    written = {name: tensor for name, tensor in tensors.items() if name not in SHARED and not name.endswith(VECTORS)}
    for module, width in zip(modules, widths, strict=True):
        up, down = (tensors[module + half].float() for half in VECTORS)  # (out,), (r,)
        if width > first.shape[1] or up.shape[0] > second.shape[0]:
            raise RecipeError(f"adapter: {module}: wider than the shared A and B; is {base} the adapter's base?")
        written[f"{module}.lora_A.weight"] = (down[:, None] * first[:, :width]).contiguous()
        written[f"{module}.lora_B.weight"] = (up[:, None] * second[: up.shape[0]]).contiguous()
    kept = {key: value for key, value in config.items() if key not in OWN}
    plain = {"peft_type": "LORA", "lora_alpha": config["r"], "lora_dropout": 0.0, "use_rslora": False, "rank_pattern": {},
             "alpha_pattern": {}, "init_lora_weights": True}  # fmt: skip
    return kept | plain, written


def _shared(config: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int, height: int) -> tuple[Tensor, Tensor]:
    """A (r, width) and B (height, r): out of the adapter's file, else drawn again as peft draws them on any CPU."""
    if SHARED[0] in tensors and SHARED[1] in tensors:
        return tensors[SHARED[0]].float(), tensors[SHARED[1]].float()
    return drawn_matrices(config["projection_prng_key"], config["r"], width, height)


def _widths(base: Path, modules: list[str], transposed: bool) -> list[int]:
    """How many inputs each of the base's layers has."""
    from finetune.export.origins import Skeleton

    shapes = Skeleton(base).shapes
    unknown = [module for module in modules if f"{module}.weight" not in shapes]
    if unknown:
        raise RecipeError([f"adapter: {name}: the base {base} has no such layer; is it the adapter's base?"
                           for name in unknown[:5]])  # fmt: skip
    return [shapes[f"{module}.weight"][0 if transposed else 1] for module in modules]
