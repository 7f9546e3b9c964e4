"""A causal LM's output head, with whatever the model does to its logits, as a function of hidden states."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class OwnHead:
    """Calling it with hidden states (n, D), as they would come to the head, gives the model's logits (n, V).

    The model's own forward runs, with a body that returns at once, so no formula is assumed: biases, scales, soft-caps and
    an adapter on the head are the model's. Before each use the model must have run once, to show that its body is a
    module that it calls before the head, and what that returns.

    Attributes:
        given: the hidden states, while it is called: for the hook before the head, which is the owner's.
    """

    def __init__(self, base: Any, head: nn.Module) -> None:
        self._base, self._head = base, head
        self._masked = False
        self._body: Any = None  # of this pass: the outermost module that came back before the head
        self._rest: Any = None  # hidden states to what that returns
        self.given: torch.Tensor | None = None
        inner = base.get_decoder() if hasattr(base, "get_decoder") else None
        named = base._modules.get(getattr(base, "base_model_prefix", ""))
        bodies = {id(body): body for body in (named, inner) if body is not None}
        apart = [body for body in bodies.values() if not any(module is head for module in body.modules())]
        self._hooks = [body.register_forward_hook(self._note) for body in apart]

    def begin(self, masked: bool) -> None:
        """A pass of the model begins, `masked` with an attention mask, which it then always gets."""
        self._body, self._rest, self._masked = None, None, masked

    def can(self) -> bool:
        """Whether it can be called, asked where the model comes to its head.

        Not under ZeRO-3, which has no weight at hand outside a module's own passes.
        """
        return self._rest is not None and not any(hasattr(weight, "ds_id") for weight in self._head.parameters())

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        body, before, output = self._body, vars(self._body).get("forward"), self._rest(hidden[None])
        body.forward = lambda *_args, **_inputs: output
        self.given = hidden
        try:
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            mask = {"attention_mask": torch.ones_like(ids)} if self._masked else {}
            return self._base(input_ids=ids, use_cache=False, **mask).logits[0]  # (1, n, V)
        finally:
            self.given = None
            del body.forward
            if before is not None:
                body.forward = before

    def _note(self, body: nn.Module, _inputs: Any, output: Any) -> None:
        from transformers.utils import ModelOutput

        if self.given is not None:
            return
        self._body, self._rest = body, None
        if isinstance(output, ModelOutput) and "last_hidden_state" in output:
            kind = type(output)
            self._rest = lambda hidden: kind(last_hidden_state=hidden)
        elif type(output) is tuple:
            others = (None,) * (len(output) - 1)
            self._rest = lambda hidden: (hidden, *others)
