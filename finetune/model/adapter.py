"""An adapter on the base through peft, and a plain statement of what it covers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from finetune.errors import RecipeError, did_you_mean
from finetune.model.methods import METHODS, block_line, draw_again, quiet_methods
from finetune.model.virtual import with_virtual_tokens
from finetune.recipe_peft import PROMPTED, PeftSection

SCORE = "score"  # what transformers calls the head of a decoder for sequence classification


@dataclass(frozen=True)
class Coverage:
    """Counts of parameters, and of linear layers by name: with an adapter, and without one.

    Attributes:
        note: what else there is to say of the method.
    """

    trainable: int
    total: int
    matched: dict[str, int]
    unmatched: dict[str, int]
    note: str = ""

    def line(self) -> str:
        """One line for the console."""
        share = 100 * self.trainable / self.total
        covered = ", ".join(f"{name} x{count}" for name, count in self.matched.items())
        rest = ", ".join(f"{name} x{count}" for name, count in self.unmatched.items()) or "none"
        if not self.matched:
            return f"{self.trainable:,} of {self.total:,} parameters trained ({share:.2f} %); {self.note}"
        note = f"; {self.note}" if self.note else ""
        return f"{self.trainable:,} of {self.total:,} parameters trained ({share:.2f} %); on {covered}; without: {rest}{note}"


def add_adapter(model: Any, section: PeftSection, seed: int) -> tuple[Any, Coverage]:
    """The peft model with fresh adapter weights in float32, the same for every process and machine.

    Raises:
        RecipeError: peft refuses the settings, or a target matches no layer (the model's linear layers are listed).
    """
    import peft
    import torch

    kind = section.kind
    if kind in PROMPTED:
        return _prompted(model, section, seed)
    linear = _linear_layers(model)
    head = _output_name(model)
    settings = section.settings()
    targets = settings["target_modules"]
    for target in targets if isinstance(targets, list) else []:
        if not any(name == target or name.endswith("." + target) for name in linear):
            kinds = {name.rpartition(".")[2] for name in linear}
            raise RecipeError(f"{kind}.target_modules: {target!r} matches no linear layer{did_you_mean(target, kinds)}")
    torch.manual_seed(seed)
    try:
        # Under SEQ_CLS peft trains the score head whole and saves it with the adapter.
        config = getattr(peft, section.config)(
            task_type="SEQ_CLS" if hasattr(model, SCORE) else "CAUSAL_LM", **settings
        )
        with quiet_methods():
            peft_model = peft.get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{kind}: {error}") from None
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if kind == "vera":
        draw_again(peft_model)
    adapted = {
        name for name, module in peft_model.get_base_model().named_modules() if hasattr(module, METHODS[kind].part)
    }
    if not adapted:
        layers = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise RecipeError(f"{kind}.target_modules: {targets!r} matches no layer; linear layers: {layers}")
    trainable = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in peft_model.parameters())
    matched = Counter(name.rpartition(".")[2] for name in sorted(adapted))
    unmatched = Counter(name.rpartition(".")[2] for name in sorted(linear) if name not in adapted and name != head)
    note = block_line(peft_model) if kind == "oft" else ""
    return peft_model, Coverage(trainable, total, dict(matched), dict(unmatched), note)


def _prompted(model: Any, section: PeftSection, seed: int) -> tuple[Any, Coverage]:
    """The same of virtual tokens, which lie in no layer."""
    made = with_virtual_tokens(model, section, seed)
    config = made.peft_config["default"]
    count, where = config.num_virtual_tokens, "before every prompt"
    what = f"{count} virtual tokens {where}"
    if section.kind == "prefix_tuning":
        what = f"keys and values of {count} virtual tokens {where}, in {config.num_layers} layers"
    trainable = sum(p.numel() for p in made.parameters() if p.requires_grad)
    return made, Coverage(trainable, sum(p.numel() for p in made.parameters()), {}, {}, what)


def trains_biases(section: PeftSection) -> bool:
    """Whether biases of the base are trained, in place: turning the adapter off leaves them as trained."""
    return section.model_dump().get("bias", "none") != "none"


def initial_weights(model: Any, section: PeftSection) -> dict[str, Any] | None:
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
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def _output_name(model: Any) -> str | None:
    head = getattr(model, SCORE, None) or model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)
