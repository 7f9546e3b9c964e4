"""A score head on the base: one number an aspect, read off the last token of a conversation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from finetune.errors import RecipeError
from finetune.model.adapter import SCORE
from finetune.model.around import Around, in_training
from finetune.model.head import needs_mask, packing_known


class SequenceScores(nn.Module):
    """The peft model of a base with a score head; its forward gives rewards of padded rows.

    transformers' own forward takes the last token that is not the padding *id*, which is another one where a
    conversation ends with that id (a pad that is the eos). Here the attention mask decides.
    """

    joins_rows = False  # as in TrainedPositions

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.start: dict[str, torch.Tensor] | None = None  # as in TrainedPositions; see reference.py
        self.around: tuple[Around, ...] = ()
        self._needs_mask = needs_mask(model)

    def release(self) -> Any:
        """The model as it was before: nothing of it was changed."""
        return self.model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rewards (B, aspects) in float32.

        Args:
            input_ids: (B, T). attention_mask: (B, T), 1 at real tokens, at least one in every row.
            last: (B,) where each row's last real token is, of rows filled up on the right: no token looks behind it, so that
                the body needs no mask. None: the mask says it.
        """
        base = self.model.get_base_model()
        body = getattr(base, base.base_model_prefix)
        mask = attention_mask if last is None or self._needs_mask else None
        with in_training(self.around, self.training, attention_mask, None), packing_known(False):
            output = body(input_ids=input_ids, attention_mask=mask, use_cache=False)
        hidden = output.last_hidden_state  # (B, T, D)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        pooled = hidden[rows, last_positions(attention_mask) if last is None else last]  # (B, D)
        with torch.autocast(pooled.device.type, enabled=False):  # rewards differ by less than bfloat16's steps
            return getattr(base, SCORE)(pooled.float())


def last_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B,): where each row's last real token is, whichever side it is padded on."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * (places + 1)).argmax(-1)


def with_score_head(model: Any, names: Sequence[str]) -> Any:
    """The model's body under a score head of zeros, as transformers' class for sequence classification; frozen.

    Zeros are the same on every process and machine, and score every pair a tie: the base's accuracy is 0.5. The body is
    not copied, and the output layer goes.

    Args:
        model: a causal LM.
        names: of the scores.

    Raises:
        RecipeError: transformers has no such class for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    config, body = model.config, getattr(model, model.base_model_prefix)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression"  # vLLM then gives the scores as they are, no sigmoid or softmax of them
    try:
        with torch.device("meta"):
            scored = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        scored = None
    head = getattr(scored, SCORE, None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise RecipeError(
            f"stage reward: transformers has no model for sequence classification with a plain `{SCORE}` head for "
            f"{type(model).__name__}; choose a base of another architecture"
        )
    setattr(scored, scored.base_model_prefix, body)
    zeros = nn.Linear(head.in_features, len(names), bias=False)
    nn.init.zeros_(zeros.weight)
    setattr(scored, SCORE, zeros)
    config.architectures = [type(scored).__name__]
    scored.requires_grad_(False)
    return scored.eval()


def score_config(model: Any) -> dict[str, Any]:
    """What config.json of a merged folder must say beside what the base's says: class, names of the rewards, padding."""
    config = model.config
    return {
        "architectures": list(config.architectures),
        "id2label": {str(index): name for index, name in config.id2label.items()},
        "label2id": dict(config.label2id),
        "problem_type": config.problem_type,
        "pad_token_id": config.pad_token_id,
    }


def choose_padding(model: Any, tokenizer: Any, ends: Collection[int]) -> None:
    """Sets, in tokenizer and config, a padding token that no conversation ends with.

    Engines that look for the last token by the padding's id (transformers' own forward) then find the one that was
    trained. The tokenizer's own padding stays where it can.

    Args:
        ends: ids of the last tokens of conversations.

    Raises:
        RecipeError: no special token is left for it.
    """
    own = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id]
    others = [*own, *tokenizer.all_special_ids, *sorted(tokenizer.added_tokens_decoder)]
    choice = next((token for token in others if token is not None and token not in ends), None)
    if choice is None:
        raise RecipeError("stage reward: conversations end with every special token that could be the padding")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(choice)
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = choice
