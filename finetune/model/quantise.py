"""A quantised base as transformers loads it, made fit for this loop: what is switched off, and LoftQ's first A and B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import RecipeError
from finetune.recipe_peft import PeftSection


def loading_options(method: str | None, stored: bool, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs beside what an unquantised base does.

    Args:
        method: None for a base that is not quantised. dtype: that is computed in.
    """
    if method is None:
        return {}
    # Weights are quantised where they are going to be: some forms can't be moved afterwards.
    options: dict[str, Any] = {"device_map": {"": device}}
    if not stored:
        options["quantization_config"] = load_config(method, dtype)
    elif method == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        # Left packed, its layers unpack themselves for good at the first forward pass: so at once, and whole.
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    elif method in ("gptq", "awq"):
        from transformers import AwqConfig, GPTQConfig

        # gptqmodel's plain kernels on a CPU: its others are compiled at the first load. Only `backend` is taken of this.
        kernel = {"gptq": "gptq_torch", "awq": "torch_awq"}[method] if device == "cpu" else "auto_trainable"
        options["quantization_config"] = (GPTQConfig if method == "gptq" else AwqConfig)(bits=4, backend=kernel)
    return options


def load_config(method: str, dtype: torch.dtype) -> Any:
    """transformers' object for a row of quantization.METHODS."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if method == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return TorchAoConfig(torchao_config(method))


def torchao_config(method: str) -> Any:
    """torchao's object for a row of quantization.METHODS."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if method == "int8_weight_only":
        return Int8WeightOnlyConfig()
    return IntxWeightOnlyConfig(weight_dtype=vars(torch)["int4"], granularity=PerGroup(32))  # not in torch's stubs


def settle(model: Any) -> None:
    """What the loop needs of a loaded model; peft's `prepare_model_for_kbit_training` is for another one.

    That makes norms, embeddings and output layer float32 (autocast casts the products back, at the price of their memory)
    and lets inputs want gradients, as speed.py does for gradient checkpointing whatever the base.

    bitsandbytes packs 4-bit weights anew for a CPU with AVX512-BF16 at the first pass outside training. What it then
    computes has no gradient, is rounded to bfloat16, and fails where 64 does not divide the inputs; off.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def named_targets(model: Any, lora: PeftSection) -> PeftSection:
    """`all-linear` spelled out for layers of gptqmodel, which peft takes by name but does not count as linear ones."""
    packed = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "qweight")}
    return (
        lora.model_copy(update={"target_modules": tuple(sorted(packed))})
        if packed and lora.settings().get("target_modules") == "all-linear"
        else lora
    )


def check_whole_modules(model: Any, saved: Any) -> None:
    """Raises RecipeError where `lora.modules_to_save` names a quantised layer: its integers take no gradient."""
    wrong = [
        name
        for name, module in model.named_modules()
        if any(name == wanted or name.endswith(f".{wanted}") for wanted in saved or ())
        and any(not parameter.is_floating_point() or is_torchao(parameter) for parameter in module.parameters())
    ]
    if wrong:
        raise RecipeError(
            f"lora.modules_to_save: {wrong[0]} is quantised, and can't be trained whole; put LoRA on it: lora.target_modules"
        )


def is_torchao(tensor: Any) -> bool:
    """Whether a tensor is one of torchao's, which say of themselves that they are of the dtype that they stand for."""
    return any(kind.__module__.startswith("torchao.") for kind in type(tensor).__mro__)


@torch.no_grad()
def start_with_loftq(model: Any, folder: Path) -> None:
    """LoftQ's A and B (arXiv 2310.08659, algorithm 1, one round): the rank-r part of what nf4 took from each weight.

    As peft's `replace_lora_weights_loftq`, which runs on accelerators only and leaves out the factor that A B is
    multiplied with. The adapter is a plain one on the nf4 base.

    Args:
        model: a peft model on an nf4 base. folder: of the base, with its weights in full precision.

    Raises:
        RecipeError: a weight is not among the folder's tensors.
    """
    from bitsandbytes.functional import dequantize_4bit

    from finetune.export.weights import model_tensors

    tensors = model_tensors(folder)
    for name, module in model.get_base_model().named_modules():
        packed: Any = getattr(getattr(module, "base_layer", None), "weight", None)
        if not hasattr(packed, "quant_state") or not hasattr(module, "lora_A"):
            continue
        stored = tensors.get(f"{name}.weight")
        if stored is None:
            raise RecipeError(
                f"lora.init_lora_weights: loftq reads the weights in full precision, and {folder} has no {name}.weight; "
                "set it to true"
            )
        lost = stored.load().to(packed.device) - dequantize_4bit(packed.data, packed.quant_state).float()  # (out, in)
        for adapter, down in module.lora_A.items():
            u, s, v = torch.linalg.svd(lost, full_matrices=False)
            rank, root = down.weight.shape[0], s.sqrt()
            down.weight.copy_(root[:rank, None] * v[:rank])  # (r, in)
            module.lora_B[adapter].weight.copy_(u[:, :rank] * root[:rank] / module.scaling[adapter])  # (out, r)


@torch.no_grad()
def compute_in_float32(model: Any) -> Any:
    """The model with its quantised weights as they are and everything else in float32, for a comparison of weights.

    torchao's layers multiply with the de-quantised weight, in the dtype of the load; that is put in their place.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and is_torchao(module.weight):
            plain = module.weight.dequantize().float()
            module.weight = nn.Parameter(plain, requires_grad=False)
    nn.Module.float(model)  # transformers' own refuses a quantised model
    for module in model.modules():
        if hasattr(module, "compute_dtype") and hasattr(module, "quant_state"):
            module.compute_dtype = torch.float32
    return model
