"""Does the recipe fit its base, and what is to serve the result? As far as the base's config.json tells, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipe_methods import room_problem
from finetune.recipe_peft import PROMPTED
from finetune.tokenlist import index_problems

Config = dict[str, Any]


def base_problems(recipe: Recipe) -> list[str]:
    """What of the recipe its base can't have, a line each; what only the loaded base tells is found when it is loaded."""
    from finetune.export.servable import config_of_base
    from finetune.model.quantization import quantization_problems

    try:
        config = config_of_base(recipe.model)
    except RecipeError:  # not there, or a folder that leads out of itself: serving_notes, and loading it, say so
        return []
    problems = _tied(recipe, config) + _token_rows(recipe, config or {}) + quantization_problems(recipe, config)
    return problems + (room_problem(recipe, config) if recipe.peft_type in PROMPTED else [])


def serving_notes(recipe: Recipe, parameters: Sequence[str] = ()) -> list[str]:
    """What an operator has to know of the recipe's targets.

    Args:
        parameters: that LoRA turned out to be on when the base was loaded, beside layers (experts by all-linear).

    Raises:
        RecipeError: what an engine would serve wrong or refuse, a converter that is not there; each with its fix.
    """
    from finetune.export.converted import check_serving
    from finetune.export.servable import config_of_base
    from finetune.model.quantization import plain_init

    dtype = None if recipe.export.dtype == "auto" else recipe.export.dtype
    on_load = None if recipe.model.quantization == "none" else recipe.model.quantization
    adapter = plain_init(recipe.adapter).model_dump() | {"peft_type": recipe.peft_type.upper()}
    adapter |= {"task_type": "SEQ_CLS"} if recipe.settings.score_names else {}
    adapter |= {"target_parameters": list(parameters)} if parameters else {}
    if recipe.model.add_tokens:
        adapter["trainable_token_indices"] = list(recipe.model.add_tokens)  # the rules ask whether there are any
    return check_serving(adapter, config_of_base(recipe.model), recipe.export.targets, dtype, on_load)


def _tied(recipe: Recipe, config: Config | None) -> list[str]:
    """LoRA on one of two tied layers."""
    from finetune.export.ends import ends_problems, gguf_is_tied, is_tied_by_config
    from finetune.model.load import locate

    if recipe.settings.score_names or recipe.peft_type != "lora":  # under a score head there is no output layer
        return []

    def tied() -> bool | None:
        if recipe.model.gguf_file:
            return gguf_is_tied(Path(locate(recipe.model)) / recipe.model.gguf_file)
        return None if config is None else is_tied_by_config(config)

    return ends_problems(recipe.adapter.settings(), tied)


def _token_rows(recipe: Recipe, config: Config) -> list[str]:
    """What of trained rows of the vocabulary can't be."""
    from finetune.export.adapterfile import residual_init

    settings = recipe.adapter.model_dump()
    indices, init = settings.get("trainable_token_indices"), settings.get("init_lora_weights", True)
    problems = index_problems(indices, (config.get("text_config") or config).get("vocab_size"))
    if residual_init(init) and init != "loftq" and recipe.model.add_tokens:
        problems.append(
            f"model.add_tokens: not with lora.init_lora_weights {init!r}, which changes the base: the adapter could not be "
            "said in terms of the base as it was, and so not be merged; take init_lora_weights: true"
        )
    return problems
