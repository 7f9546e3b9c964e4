"""LoRA on the base through peft, and a plain statement of what it covers."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

from finetune.errors import RecipeError, did_you_mean
from finetune.recipe import LoraSection

SCORE = "score"  # what transformers calls the head of a decoder for sequence classification


@dataclass(frozen=True)
class Coverage:
    """Counts of parameters, and of linear layers by name: with an adapter, and without one."""

    trainable: int
    total: int
    matched: dict[str, int]
    unmatched: dict[str, int]

    def line(self) -> str:
        """One line for the console."""
        share = 100 * self.trainable / self.total
        covered = ", ".join(f"{name} x{count}" for name, count in self.matched.items())
        rest = ", ".join(f"{name} x{count}" for name, count in self.unmatched.items()) or "none"
        return f"{self.trainable:,} of {self.total:,} parameters trained ({share:.2f} %); on {covered}; without: {rest}"


def add_adapter(model: Any, section: LoraSection, seed: int) -> tuple[Any, Coverage]:
    """The peft model with fresh LoRA weights in float32, the same for every process and machine.

    Raises:
        RecipeError: peft refuses the settings, or a target matches no layer (the model's linear layers are listed).
    """
    import torch
    from peft import LoraConfig, get_peft_model

    linear = _linear_layers(model)
    head = _output_name(model)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in section.model_dump().items()}
    targets = settings["target_modules"]
    for target in targets if isinstance(targets, list) else []:
        if not any(name == target or name.endswith("." + target) for name in linear):
            kinds = {name.rpartition(".")[2] for name in linear}
            raise RecipeError(f"lora.target_modules: {target!r} matches no linear layer{did_you_mean(target, kinds)}")
    torch.manual_seed(seed)
    try:
        # Under SEQ_CLS peft trains the score head whole and saves it with the adapter.
        config = LoraConfig(task_type="SEQ_CLS" if hasattr(model, SCORE) else "CAUSAL_LM", **settings)
        with warnings.catch_warnings():  # that a tied layer can't be merged: export/merge.py unties it
            warnings.filterwarnings("ignore", message=".*ensure_weight_tying", category=UserWarning)
            peft_model = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: {error}") from None
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    adapted = {name for name, module in peft_model.get_base_model().named_modules() if hasattr(module, "lora_A")}
    if not adapted:
        layers = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise RecipeError(f"lora.target_modules: {targets!r} matches no layer; linear layers: {layers}")
    trainable = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in peft_model.parameters())
    matched = Counter(name.rpartition(".")[2] for name in sorted(adapted))
    unmatched = Counter(name.rpartition(".")[2] for name in sorted(linear) if name not in adapted and name != head)
    return peft_model, Coverage(trainable, total, dict(matched), dict(unmatched))


def trains_biases(section: LoraSection) -> bool:
    """Whether biases of the base are trained, in place: turning the adapter off leaves them as trained."""
    return section.model_dump().get("bias", "none") != "none"


def initial_weights(model: Any, section: LoraSection) -> dict[str, Any] | None:
    """The fresh LoRA weights by their names in an adapter's file, where the base was changed for them; else None.

    PiSSA and its kin take the adapter's part out of the base's weights, so the adapter says something only beside them.
    """
    from peft import get_peft_model_state_dict

    from finetune.export.canon import residual_init

    if not residual_init(section.model_dump().get("init_lora_weights", True)):
        return None
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items() if "lora_" in name}


def _linear_layers(model: Any) -> list[str]:
    import torch

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or hasattr(module, "qweight")  # gptqmodel's
    ]


def _output_name(model: Any) -> str | None:
    head = getattr(model, SCORE, None) or model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)
