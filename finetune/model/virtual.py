"""Virtual tokens before every prompt: a trained prompt (arXiv 2104.08691) or trained keys and values (arXiv 2101.00190)."""

from __future__ import annotations

import inspect
from typing import Any

from finetune.errors import RecipeError, first_line
from finetune.model.attention import cache_argument
from finetune.recipe_peft import PROMPTED, PeftSection

PARAMETER = "prompt_encoder.default.embedding.weight"  # by its name in the peft model
IN_FILE = "prompt_embeddings"  # by peft's name in an adapter's file


def is_prompted(model: Any) -> bool:
    """Whether the adapter of a peft model is virtual tokens."""
    configs = getattr(model, "peft_config", None) or {}
    return any(str(config.peft_type.value).lower() in PROMPTED for config in configs.values())


def with_virtual_tokens(model: Any, section: PeftSection, seed: int) -> Any:
    """The peft model of a base with fresh virtual tokens in float32, the same for every process and machine.

    Raises:
        RecipeError: peft refuses the settings, or this base can't be trained or asked with virtual tokens.
    """
    import peft
    import torch

    kind, settings = section.kind, section.settings()
    if settings.get("prompt_tuning_init") == "TEXT" and not settings.get("tokenizer_name_or_path"):
        settings["tokenizer_name_or_path"] = model.name_or_path
    problems = _cannot(model, kind)
    if problems:
        raise RecipeError(problems)
    torch.manual_seed(seed)
    try:
        made = peft.get_peft_model(model, getattr(peft, section.config)(task_type="CAUSAL_LM", **settings))
    except (ValueError, TypeError, OSError) as error:
        raise RecipeError(f"{kind}: {first_line(error)}") from None
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if made.word_embeddings is not model.get_input_embeddings():
        raise RecipeError(f"{kind}: peft takes another layer of {type(model).__name__} for its word embeddings")
    if kind == "prefix_tuning":
        _try(made, model)
    return made


def _cannot(model: Any, kind: str) -> list[str]:
    """What this base lacks: transformers' generation has to take what stands before the prompt."""
    name, config = type(model).__name__, model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    if kind == "prompt_tuning":
        takes = "inputs_embeds" in inspect.signature(model.prepare_inputs_for_generation).parameters
        return (
            []
            if takes
            else [f"{kind}: {name} answers no prompt that is given as embeddings; take another base or lora"]
        )
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    others = sorted({layer for layer in layers if layer != "full_attention"}) if layers else []
    if others or (window and not layers):
        what = f"layers of {', '.join(others)}" if others else f"a sliding window of {window} tokens"
        return [f"{kind}: {name} has {what}, where a prefix is lost or in the way; take prompt_tuning, or another base"]
    return []


def _try(made: Any, model: Any) -> None:
    """One short forward pass: keys and values of other shapes than peft thinks would end the first step."""
    import torch

    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            made(input_ids=ids, use_cache=False)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise RecipeError(f"prefix_tuning: {type(model).__name__} takes no prefix: {first_line(error)}") from None


def generation_inputs(model: Any, input_ids: Any, attention_mask: Any) -> tuple[Any, dict[str, Any], int]:
    """What to call `generate` of, with which inputs, and how many leading ids of its output are no answer.

    peft's own generation puts the virtual tokens before a row's padding, so that they stand at another distance from
    the prompt than in training; here padding comes first in every row.

    Args:
        model: a peft model, or one of transformers.
        input_ids, attention_mask: (B, T), padded on the left.
    """
    import torch

    width = input_ids.shape[1]
    if not is_prompted(model):
        return model, {"input_ids": input_ids, "attention_mask": attention_mask}, width
    base = model.get_base_model()
    if model._adapters_disabled:
        return base, {"input_ids": input_ids, "attention_mask": attention_mask}, width
    rows, config = input_ids.shape[0], model.peft_config["default"]
    count = config.num_virtual_tokens
    real = torch.cat([attention_mask.new_ones(rows, count), attention_mask], 1)  # (B, P + T)
    if config.peft_type == "PREFIX_TUNING":
        # As if the P first tokens had been read before: their keys and values are in the cache.
        ids = torch.cat([input_ids.new_zeros(rows, count), input_ids], 1)
        cache = model.get_prompt(rows)
        return base, {"input_ids": ids, "attention_mask": real, cache_argument(base): cache}, count + width
    embedded = model.word_embeddings(input_ids)  # (B, T, D)
    whole = torch.cat([model.get_prompt(rows).to(embedded.dtype), embedded], 1)
    places = torch.arange(count + width, device=input_ids.device).expand(rows, -1)
    padding = (width - attention_mask.sum(1, keepdim=True)).to(places.device)  # (B, 1)
    # Place i of a row: its padding, then the virtual tokens, then the prompt, which stays where it is.
    order = torch.where(
        places < padding, places + count, torch.where(places < padding + count, places - padding, places)
    )
    return base, {"inputs_embeds": whole.gather(1, order[..., None].expand_as(whole)),
                  "attention_mask": real.gather(1, order)}, 0  # fmt: skip
