"""The model of a run in lm-eval's own wrapper: no second copy, nothing of it changed. Importing it needs lm-eval."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from finetune.device import Placement
from finetune.evaluate.generate import adapter_in, head_on_rows
from finetune.model.attention import attend_for_answers
from finetune.model.virtual import generation_inputs, is_prompted


@contextmanager
def wrapped(model: Any, tokenizer: Any, placement: Placement, batch_size: int) -> Iterator[Any]:
    """lm-eval's HFLM around a peft model as it stands, adapter on or off, computing as for the run's own answers.

    The log-probabilities are taken in float32 whatever the dtype of the matrix products: in bfloat16 choices would tie.
    """
    attend_for_answers(model.get_base_model(), placement.generation_attention)
    training = model.training
    model.eval()
    precision = None if placement.dtype == "float32" else placement.dtype
    settings = {"mixed_precision_dtype": precision, "softmax_dtype": "float32", "batch_size": batch_size}
    try:
        # Compiled layers are made for training's shapes, see generate.answer.
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"), adapter_in(model, placement.torch_dtype):
            asked = AsItStands(model, placement.accelerator.device)
            # The wrapper changes its tokenizer's padding side, so it has one of its own.
            wrapper = Spread(pretrained=asked, tokenizer=copy.deepcopy(tokenizer), backend="causal", **settings)
            wrapper.accelerator_of_run = placement.accelerator
            yield wrapper
    finally:
        model.train(training)


class Spread(HFLM):
    """lm-eval's wrapper, its requests spread over the run's processes; each gets all answers.

    lm-eval's own way of sharing gives each process its documents, and then other worked examples are drawn than by a single
    process. Here every process draws all of them, and only the model's work is shared: the numbers do not change.
    """

    accelerator_of_run: Any

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """(log-likelihood, whether greedy) of each request."""
        return self._spread(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """The log-likelihood of each whole text."""
        return self._spread(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """What each prompt is answered."""
        return self._spread(super().generate_until, requests)

    def _spread(self, ask: Callable[..., list[Any]], requests: Sequence[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        accelerator = self.accelerator_of_run
        if accelerator.num_processes == 1:
            return ask(requests)
        # A document's requests stay together: choices after one context are computed at once.
        mine = [
            n for n, one in enumerate(requests) if one.doc_id % accelerator.num_processes == accelerator.process_index
        ]
        found = ask([requests[n] for n in mine]) if mine else []
        everyone = gather_object(list(zip(mine, found, strict=True)))
        return [answer for _, answer in sorted(everyone, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class AsItStands:
    """What lm-eval's wrapper asks of a model: config, device, forward pass and generation.

    It is no torch module on purpose: of a module the wrapper ties the weights anew, which transformers 5.23 can't where
    embedding and output layer are one matrix and an adapter is on either (LoRA, modules_to_save, trained token rows).

    Attributes:
        model: a peft model.
    """

    model: Any
    device: torch.device

    @property
    def config(self) -> Any:
        """The base's configuration."""
        return self.model.get_base_model().config

    def __call__(self, input_ids: torch.Tensor) -> Any:
        """Logits (B, T, V) of ids (B, T), padded on the right; with virtual tokens (B, P + T, V)."""
        return self.model(input_ids=input_ids)

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, max_length: int, **options: Any
    ) -> torch.Tensor:
        """Prompts (B, T) padded on the left, and what follows, (B, up to max_length); virtual tokens where training has them."""
        width = input_ids.shape[1]
        if is_prompted(self.model):
            # The criteria count from the prompt's end, which lies elsewhere here; the text is cut at the stops anyway.
            options.pop("stopping_criteria", None)
        asked, inputs, before = generation_inputs(self.model, input_ids, attention_mask)
        with head_on_rows(self.model.get_base_model()):
            made = asked.generate(**inputs, max_new_tokens=max_length - width, **options)
        return torch.cat([input_ids, made[:, before:]], 1)
