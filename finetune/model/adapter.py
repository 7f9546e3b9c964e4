"""An adapter on the base through peft."""

from __future__ import annotations

from typing import Any

from finetune.errors import RecipeError
from finetune.model.coverage import Coverage, coverage_of
from finetune.model.methods import METHODS, block_line, draw_again, quiet_methods
from finetune.model.targets import ALL_LINEAR, check_settings, ends_of, fused_parameters, linear_layers, transposed
from finetune.model.text_part import beside_text
from finetune.model.virtual import with_virtual_tokens
from finetune.recipe_peft import PROMPTED, PeftSection

SCORE = "score"  # what transformers calls the head of a decoder for sequence classification


def add_adapter(model: Any, section: PeftSection, seed: int, freeze_down: bool = False) -> tuple[Any, Coverage]:
    """The peft model with fresh adapter weights in float32, the same for every process and machine.

    Args:
        freeze_down: lora_A stays as it is (LoRA-FA).

    Raises:
        RecipeError: peft refuses the settings, or one of them matches nothing in this model; all of those at once.
    """
    import peft
    import torch

    from finetune.fullstate import adapter_parameters
    from finetune.lora_fa import freeze_down_halves
    from finetune.tied_lora import tie_ends

    kind = section.kind
    if kind in PROMPTED:
        return _prompted(model, section, seed)
    linear, fused, head = linear_layers(model), fused_parameters(model), ends_of(model)[1]
    torch.manual_seed(seed)
    try:
        with quiet_methods():
            # Under SEQ_CLS peft trains the score head whole and saves it with the adapter.
            config = getattr(peft, section.config)(
                task_type="SEQ_CLS" if hasattr(model, SCORE) else "CAUSAL_LM", **section.settings()
            )
            problems = check_settings(model, config)
            if problems:
                raise RecipeError(problems)
            _keep_to_text(model, config)
            if hasattr(config, "fan_in_fan_out"):
                config.fan_in_fan_out = transposed(model, config)
            peft_model = peft.get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{kind}: {error}") from None
    for _name, parameter in adapter_parameters(peft_model):
        parameter.data = parameter.data.float()
    if kind == "vera":
        draw_again(peft_model)
    if getattr(config, "ensure_weight_tying", False):
        tie_ends(peft_model)
    if freeze_down:
        freeze_down_halves(peft_model)
    note = block_line(peft_model) if kind == "oft" else ""
    return peft_model, coverage_of(peft_model, METHODS[kind].part, linear, fused, head, note)


def _keep_to_text(model: Any, config: Any) -> None:
    """All linear layers are those of the text decoder, in a model that also takes images or sound.

    Raises:
        RecipeError: the method can't leave layers out.
    """
    beside = beside_text(model) if config.target_modules == ALL_LINEAR else None
    if beside is None or getattr(config, "exclude_modules", None):
        return
    if not hasattr(config, "exclude_modules"):
        kind = str(config.peft_type.value).lower()
        raise RecipeError(
            f"{kind}.target_modules: {ALL_LINEAR} would cover layers that text never goes through; give a pattern for the "
            "text decoder's"
        )
    config.exclude_modules = beside


def _prompted(model: Any, section: PeftSection, seed: int) -> tuple[Any, Coverage]:
    """The same of virtual tokens, which lie in no layer."""
    made = with_virtual_tokens(model, section, seed)
    config = made.peft_config["default"]
    count, where = config.num_virtual_tokens, "before every prompt"
    what = f"{count} virtual tokens {where}"
    if section.kind == "prefix_tuning":
        what = f"keys and values of {count} virtual tokens {where}, in {config.num_layers} layers"
    trainable, total = made.get_nb_trainable_parameters()
    return made, Coverage(trainable, total, note=what)


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
