"""What a forward pass of training runs in, and no other: noise, offloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

# (attention_mask, position_ids) to a context
Around = Callable[[torch.Tensor | None, torch.Tensor | None], AbstractContextManager[None]]


@contextmanager
def in_training(
    around: tuple[Around, ...], training: bool, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> Iterator[None]:
    """Inside, all of `around`; nothing at looks, for answers and in the reference policy, which take no gradient."""
    with ExitStack() as stack:
        for context in around if training and torch.is_grad_enabled() else ():
            stack.enter_context(context(attention_mask, position_ids))
        yield
