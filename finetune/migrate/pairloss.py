"""TRL's losses of DPO, which Axolotl hands on as they are."""

from __future__ import annotations

from typing import Any

from finetune.errors import did_you_mean
from finetune.migrate.draft import Draft

OURS = ("sigmoid", "sigmoid_norm", "hinge", "ipo")
OTHERS = ("exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
          "discopop", "sft")  # fmt: skip


def set_loss(draft: Draft, given: Any, weights: Any, key: str) -> None:
    """`dpo.loss_type`, and `dpo.rpo_alpha` where the likelihood (`sft`) is added to it."""
    names = [str(name) for name in (given if isinstance(given, list) else [given or "sigmoid"])]
    shares = weights if isinstance(weights, list) else [1.0] * len(names)
    if len(shares) != len(names) or not all(isinstance(share, int | float) and share > 0 for share in shares):
        draft.problem(key, f"a weight above 0 is needed for each of the {len(names)} losses, got {weights!r}")
        return
    for name in names:
        if name not in OURS + OTHERS:
            draft.problem(key, f"{name!r} is no loss of DPO{did_you_mean(name, OURS + OTHERS)}")
            return
    parts = dict(zip(names, shares, strict=False))
    main = [name for name in names if name in OURS]
    likelihood = parts.pop("sft", 0.0)
    if len(parts) != 1 or not main:
        draft.lost(
            key, "this loss, or this sum of losses, is not here", f"dpo.loss_type: {main[0] if main else 'sigmoid'}"
        )
        draft.write("dpo.loss_type", main[0] if main else "sigmoid")
        return
    draft.put("dpo.loss_type", main[0], key)
    if likelihood:
        draft.write("dpo.rpo_alpha", round(likelihood / parts[main[0]], 10), "weight of sft over that of the loss")
    if parts[main[0]] != 1.0:
        draft.changed(key, "the weight of the loss itself is 1 here, the likelihood's is told as a share of it")
