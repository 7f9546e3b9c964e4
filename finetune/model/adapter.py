"""LoRA on the base through peft."""

from __future__ import annotations

import warnings
from typing import Any

from finetune.errors import RecipeError
from finetune.model.coverage import Coverage, coverage_of
from finetune.model.lora import check_lora, ends_of, fused_parameters, linear_layers, transposed
from finetune.recipe_peft import PeftSection

SCORE = "score"  # what transformers calls the head of a decoder for sequence classification


def add_adapter(model: Any, section: PeftSection, seed: int, freeze_down: bool = False) -> tuple[Any, Coverage]:
    """The peft model with fresh LoRA weights in float32, the same for every process and machine.

    Args:
        freeze_down: lora_A stays as it is (LoRA-FA).

    Raises:
        RecipeError: peft refuses the settings, or one of them matches nothing in this model; all of those at once.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from finetune.fullstate import adapter_parameters
    from finetune.lora_fa import freeze_down_halves
    from finetune.tied_lora import tie_ends

    fused, head = fused_parameters(model), ends_of(model)[1]
    linear = linear_layers(model)
    settings = section.settings()
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():  # of peft's own conversion of residual starts; export/canon.py has another
            warnings.filterwarnings(
                "ignore", message="Using Rank-Stabilized LoRA with rank_pattern", category=UserWarning
            )
            # Under SEQ_CLS peft trains the score head whole and saves it with the adapter.
            config = LoraConfig(task_type="SEQ_CLS" if hasattr(model, SCORE) else "CAUSAL_LM", **settings)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: {error}") from None
    problems = check_lora(model, config)
    if problems:
        raise RecipeError(problems)
    config.fan_in_fan_out = transposed(model, config)
    try:
        with warnings.catch_warnings():
            # that a tied layer trained whole can't be merged: export/merge.py unties it
            warnings.filterwarnings("ignore", message=".*ensure_weight_tying", category=UserWarning)
            # peft looks for the patterns among modules only, not among parameters; check_lora has looked at both
            warnings.filterwarnings("ignore", message="The following .*_pattern keys did not", category=RuntimeWarning)
            # of a model that has both kinds of layers; peft sets it for each
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
            peft_model = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: {error}") from None
    for _name, parameter in adapter_parameters(peft_model):
        parameter.data = parameter.data.float()
    if config.ensure_weight_tying:
        tie_ends(peft_model)
    if freeze_down:
        freeze_down_halves(peft_model)
    return peft_model, coverage_of(peft_model, linear, fused, head)


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
