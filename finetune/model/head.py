"""The output head at the trained positions only: most of a batch is prompt, and the vocabulary is the widest layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.device.onednn import few_sizes
from finetune.model import varlen
from finetune.model.around import Around, in_training
from finetune.model.own_head import OwnHead
from finetune.model.shared_prefix import AttentionSwitch, Documents, SharedPrefixes, attending
from finetune.model.token_logps import Read, chunked_logps, read_logps
from finetune.model.virtual import is_prompted

SIZES = 16  # lengths of a row between two powers of two, where they are made few


class TrainedPositions(nn.Module):
    """A causal LM whose forward gives logits at chosen positions, or log-probabilities of tokens there.

    The output head sees only the chosen rows, and for log-probabilities a few of them at a time; whatever the model does to
    its logits afterwards (scaling, soft-capping) still happens, because its own forward runs. Without `kept` it is the
    model unchanged, so generation works too.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.start: dict[str, torch.Tensor] | None = None  # an adapter that training began with; see reference.py
        self.around: tuple[Around, ...] = ()
        self._kept: torch.Tensor | None = None
        self._width = 0
        self._half = _base_of(model).dtype in (torch.bfloat16, torch.float16)
        self._needs_mask = needs_mask(model)
        self._own_head = OwnHead(_base_of(model), model.get_output_embeddings())
        self._holds_back = False  # whether the head is to get no row, as `_hidden` will be taken from here
        self._hidden: torch.Tensor | None = None
        self._switch: AttentionSwitch | None = None  # for documents that share beginnings
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._select)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        kept: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        bounds: torch.Tensor | None = None,
        documents: Documents | None = None,
        targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        with_entropy: bool = False,
    ) -> torch.Tensor | Read:
        """At N positions, in their order: logits (N, V), or with `targets` what `read_logps` gives of them.

        Args:
            input_ids: (B, T).
            kept: (N,) the positions, b T + t. (Not a mask: for the number of its true entries the host would wait.)
            attention_mask: (B, T), 1 at real tokens, for rows of one document each; None for packed rows.
            position_ids: (B, T), from 0 in each document of a packed row; None for rows of one document.
            bounds: (documents + 1,) int32, where in B T the documents of packed rows begin, and the end; on the host, or
                looked for.
            documents: of one row whose documents share beginnings, see SharedPrefixes; position_ids go on from those.
            targets: (N,) tokens. temperature, with_entropy: for these, see `read_logps`.
        """
        if targets is None:
            return self._logits(input_ids, attention_mask, kept, position_ids, bounds, documents)
        self._own_head.begin(masked=self._needs_mask and position_ids is None)
        self._holds_back = True
        try:
            logits = self._logits(input_ids, attention_mask, kept, position_ids, bounds, documents)
            hidden = self._hidden
        finally:
            self._holds_back, self._hidden = False, None
        if hidden is None:
            return read_logps(logits, targets, temperature, with_entropy)
        # Of no row, and not by `hidden`: what gradient they have is by the head itself.
        trains, vocabulary = logits.requires_grad, logits.shape[-1]
        return chunked_logps(self._own_head, hidden, targets, vocabulary, trains, temperature, with_entropy)

    @property
    def joins_rows(self) -> bool:
        """Whether it computes the rows of a batch end to end, without what they were filled up with."""
        return not self._needs_mask and separates(self.model.config)

    def release(self) -> Any:
        """The model as it was before, for a wrapping that was only for a moment."""
        self._hook.remove()
        self._own_head.release()
        return self.model

    def _logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        kept: torch.Tensor,
        position_ids: torch.Tensor | None,
        bounds: torch.Tensor | None,
        documents: Documents | None,
    ) -> torch.Tensor:
        """(N, V), or (0, V) with `_hidden` set; arguments as of `forward`."""
        assert kept.dtype == torch.long, "positions, not a mask"
        if position_ids is None and attention_mask is not None and self.joins_rows:
            input_ids, position_ids, bounds, kept = unpadded(input_ids, attention_mask, kept)
            attention_mask = None
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask if self._needs_mask else None}
        switch = None
        if documents is not None:
            inputs = {"input_ids": input_ids, "position_ids": position_ids}
            inputs |= {"shared_prefixes": SharedPrefixes(documents)}  # type: ignore[dict-item]
            switch = self._switch = self._switch or AttentionSwitch(self.model.config)
        elif position_ids is not None:
            inputs = packed_inputs(self.model.config, input_ids, position_ids, bounds, self._half)
        self._kept, self._width = kept, inputs["input_ids"].shape[1]  # type: ignore[union-attr]
        try:
            with (
                in_training(self.around, self.training, attention_mask, position_ids),
                packing_known(position_ids is not None),
                attending(switch),
            ):
                output = self.model(**inputs, use_cache=False)
        finally:
            self._kept = None
        logits = output.logits[0]  # (1, N, V)
        if switch is not None:
            switch.around_backward(logits if self._hidden is None else self._hidden)
        return logits

    def _select(self, _head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if self._own_head.given is not None:
            return (self._own_head.given[None], *inputs[1:])
        if self._kept is None:
            return inputs
        before = inputs[0].shape[1] - self._width  # virtual tokens in each row, which are never trained on
        places = self._kept + before * (self._kept // self._width + 1)
        rows = inputs[0].flatten(0, 1)[places]  # (B, T, D) -> (N, D)
        if self._holds_back and self._own_head.can():
            self._hidden, rows = rows, rows[:0].detach()
        return (rows[None], *inputs[1:])


def needs_mask(model: Any) -> bool:
    """Whether rows filled up on the right need an attention mask, although no token looks at those behind it.

    Virtual tokens, which stand before them, do. What custom code makes of its tokens isn't known. Elsewhere it would only
    cost: a (B, T, T) mask in memory, and the host waiting for the device to say whether there is anything to mask.
    """
    return is_prompted(model) or not type(_base_of(model)).__module__.startswith("transformers.")


def _base_of(model: Any) -> Any:
    """The transformers model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def packing_known(packed: bool) -> Iterator[None]:
    """Inside, transformers does not ask the device whether rows are packed, for which the host would have to wait."""
    from transformers import masking_utils

    plain = getattr(masking_utils, "find_packed_sequence_indices", None)
    if plain is None:
        yield
        return

    def known(position_ids: torch.Tensor) -> torch.Tensor | None:
        """(B, T): which document of its row each token is of; None where each row is one."""
        if not packed:
            return None
        return nn.functional.pad((position_ids.diff(dim=-1) != 1).cumsum(-1), (1, 0))

    masking_utils.find_packed_sequence_indices = known
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = plain


def separates(config: Any) -> bool:
    """Whether the attention that the configuration names takes one row and where its documents begin."""
    name = config.get_text_config()._attn_implementation or ""
    return "flash" in name or name == varlen.NAME


def unpadded(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows filled up on the right as one row of documents that is not: ids and positions (1, N), bounds, and `kept` in it."""
    real = attention_mask.flatten().bool()
    lengths = attention_mask.sum(1)
    positions = (attention_mask.cumsum(1) - 1).flatten()[real]
    places = real.cumsum(0) - 1
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    return input_ids.flatten()[real][None], positions[None], bounds, places[kept]


def packed_inputs(
    config: Any,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    bounds: torch.Tensor | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """What transformers needs to keep documents apart; arguments as of `TrainedPositions.forward`.

    No attention mask of ours: with a 2-D one, or with a cache, transformers ignores where `position_ids` restart, and a
    4-D one overrides sliding windows. Flash kernels separate the documents of a single row only, so there all rows
    become one, with the documents' bounds given (else every layer looks for them and waits for the device).
    In half precision a CPU's row is filled up to one of few lengths, by a document of its own.
    """
    if not separates(config):
        return {"input_ids": input_ids, "position_ids": position_ids}
    input_ids, position_ids = input_ids.reshape(1, -1), position_ids.reshape(1, -1)
    if bounds is None:
        starts = (position_ids[0] == 0).nonzero().flatten()
        bounds = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).int()
    length, of_cpu = input_ids.shape[1], config.get_text_config()._attn_implementation == varlen.NAME
    if half and of_cpu and (fill := few_sizes(length, SIZES) - length):
        input_ids = nn.functional.pad(input_ids, (0, fill))
        position_ids = torch.cat([position_ids, torch.arange(fill)[None]], dim=1)
        bounds = torch.cat([bounds, bounds.new_tensor([length + fill])])
    longest = int(bounds.diff().max())
    # transformers gives NPU kernels numbers, which it reads from this tensor twice a layer; the others get a tensor.
    places = bounds if input_ids.device.type == "npu" else bounds.to(input_ids.device)
    return {
        "input_ids": input_ids, "position_ids": position_ids, "cu_seq_lens_q": places, "cu_seq_lens_k": places,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip
