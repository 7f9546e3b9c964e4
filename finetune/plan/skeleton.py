"""The base with its adapter as torch's meta tensors: every shape and dtype of the real one, and no numbers.

transformers and peft build it from the configuration alone, so the counts are theirs for every architecture and method.
"""

from __future__ import annotations

from typing import Any

from finetune.errors import RecipeError
from finetune.recipe import ModelSection, Recipe
from finetune.recipe_peft import PeftSection


def build_base(section: ModelSection, config: Any, dtype: Any, attention: str) -> Any:
    """The frozen base on meta, with whatever attention it would be loaded with.

    Args:
        dtype: torch's, of the weights.

    Raises:
        RecipeError: its code can't be run without weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.model.attention import load_with_attention
    from finetune.model.load import reason

    def load(**options: Any) -> Any:
        return AutoModelForCausalLM.from_config(config, **options)

    options = {"trust_remote_code": True} if section.trust_remote_code else {}
    try:
        with torch.device("meta"):
            model = load_with_attention(load, attention, section.attn_implementation == "auto", dtype=dtype, **options)
    except (OSError, ValueError, ImportError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise RecipeError(
            f"model.name_or_path: no model without weights from {section.name_or_path!r}: {reason(error)}"
        ) from None
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def build(recipe: Recipe, config: Any, dtype: Any, attention: str, tokenizer: Any = None) -> Any:
    """The peft model on meta, with a score head and rows of added tokens where the recipe has them.

    Args:
        config: the base's. dtype: torch's, of the weights.
        tokenizer: the base's own, where the recipe adds tokens to it (in place).

    Raises:
        RecipeError: the base or the adapter can't be built.
    """
    import torch

    from finetune.model.adapter import add_adapter
    from finetune.model.score import with_score_head
    from finetune.model.tokens import add_to_tokenizer, grow, with_token_rows
    from finetune.optimizer import OPTIMIZERS

    base = build_base(recipe.model, config, dtype, attention)
    added = add_to_tokenizer(tokenizer, recipe.model.add_tokens)
    with torch.device("meta"):
        grow(base, added)
        if recipe.settings.score_names:
            base = with_score_head(base, recipe.settings.score_names)
        section = with_token_rows(same_shapes(recipe.adapter), base, added)
        try:
            model, _coverage = add_adapter(base, section, recipe.seed, OPTIMIZERS[recipe.train.optim].freezes_down)
        except (NotImplementedError, RuntimeError) as error:
            raise RecipeError(f"{recipe.peft_type}: can't be counted without weights: {error}") from None
    return model


def same_shapes(section: PeftSection) -> PeftSection:
    """The adapter with first values that need no weights of the base: PiSSA's A has the shape of a plain one."""
    plain = {"init_lora_weights": True, "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None}
    given = section.model_dump()
    return section.model_copy(update={key: value for key, value in plain.items() if key in given})
