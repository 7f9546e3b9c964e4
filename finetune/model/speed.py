"""What the recipe asks of the model before training: compiled layers, what memory it may take, noise, a thin head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.model.adapter import SCORE
from finetune.model.head import TrainedPositions
from finetune.model.noise import EmbeddingNoise
from finetune.model.offload import ActivationOffloading
from finetune.model.score import SequenceScores
from finetune.recipe import TrainSection

if TYPE_CHECKING:
    import torch


def wrap(model: Any, start: dict[str, torch.Tensor] | None = None) -> TrainedPositions | SequenceScores:
    """The peft model (or one without adapter) as the losses call it: for logits at trained positions, or with a score
    head for rewards."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    wrapped = SequenceScores(model) if hasattr(base, SCORE) else TrainedPositions(model)
    wrapped.start = start
    return wrapped


def prepare_for_training(
    model: Any,
    section: TrainSection,
    start: dict[str, torch.Tensor] | None = None,
) -> TrainedPositions | SequenceScores:
    """The peft model, wrapped for training; `model` itself stays what evaluation and export use.

    Args:
        start: the adapter's weights at the start, where they are not fresh ones: see reference.py.

    Raises:
        RecipeError: the recipe asks to compile a model whose layers can't be found.
    """
    base = model.get_base_model()
    if section.gradient_checkpointing:
        # transformers 5.23 renamed it; 5.17 knows the old name only.
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        base.enable_input_require_grads()
    if section.torch_compile:
        layers = getattr(base.get_decoder(), "layers", None)
        if layers is None:
            raise RecipeError(f"train.torch_compile: no decoder layers found in {type(base).__name__}; set it to false")
        for layer in layers:
            layer.compile(dynamic=True)
    wrapped = wrap(model, start)
    if section.neftune_noise_alpha:
        wrapped.around += (EmbeddingNoise(model.get_input_embeddings(), section.neftune_noise_alpha),)
    if section.activation_offloading:
        wrapped.around += (ActivationOffloading(model),)
    return wrapped
