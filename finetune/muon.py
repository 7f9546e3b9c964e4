"""Muon for the matrices of the adapter, AdamW for all the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for groups whose `state` is `muon`, torch's AdamW for the others.

    Muon's steps are scaled to the root mean square of AdamW's (arXiv 2502.16982, section 2.2), so that one learning
    rate and one weight decay fit both.

    Args:
        groups: parameter groups; each has `state`, `muon` (tensors of two dimensions) or `adamw`.
        adam: AdamW's settings by torch's names; Muon takes `lr` and `weight_decay` of them.
        momentum, ns_steps: Muon's.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], adam: dict[str, Any], momentum: float, ns_steps: int) -> None:
        own = {"lr": adam["lr"], "weight_decay": adam["weight_decay"], "momentum": momentum, "ns_steps": ns_steps}
        made: list[dict[str, Any]] = []
        for group in groups:
            part = (
                torch.optim.Muon([dict(group)], **own, adjust_lr_fn="match_rms_adamw")
                if group["state"] == "muon"
                else torch.optim.AdamW([dict(group)], **adam)
            )
            made.append(part.param_groups[0])
        super().__init__(made, {})
        self._muon = torch.optim.Muon([_nothing(2)])
        self._adamw = torch.optim.AdamW([_nothing(1)])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each; they work on this object's groups and state, which accelerate replaces at times."""
        for part, state in ((self._muon, "muon"), (self._adamw, "adamw")):
            part.param_groups = [group for group in self.param_groups if group["state"] == state]
            part.state = self.state
            part.step()


def _nothing(dimensions: int) -> torch.Tensor:
    return torch.zeros([1] * dimensions, requires_grad=True)
