"""How far a run has come: everything of the loop besides weights and optimizer state, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """Kept in a checkpoint's state.json; floats survive JSON exactly.

    Attributes:
        step: optimizer steps taken (skipped ones count).
        tokens, trained_tokens: over all processes.
        empty_steps: without a trained token. nonfinite_steps: left out by `on_nonfinite: skip`.
        loss: mean of the last logged window.
        window: sums of the steps since the last log line.
        recent: mean losses of the last steps, oldest first.
        evaluated: step of the last look at the held-out loss; -1 before the first.
        best_step, best_loss: of the look with the lowest held-out loss; -1 before the first.
        waited: looks in a row that were not clearly better.
        seconds: spent training, over all processes' lives.
        moved: whether a step had a gradient other than 0, so that the weights have changed.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    empty_steps: int = 0
    nonfinite_steps: int = 0
    loss: float = 0.0
    window: list[dict[str, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    evaluated: int = -1
    best_step: int = -1
    best_loss: float = 0.0
    waited: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    moved: bool = False

    def looked(self, loss: float, threshold: float, patience: int | None) -> bool:
        """Notes a held-out loss; whether it is the best so far. Patience ends after so many looks in a row that were
        not better than the best by more than `threshold` (as transformers' EarlyStoppingCallback counts)."""
        self.evaluated = self.step
        first = self.best_step < 0
        better, clearly = first or loss < self.best_loss, first or loss < self.best_loss - threshold
        self.waited = 0 if clearly else self.waited + 1
        self.stopped_early = patience is not None and self.waited >= patience
        if better:
            self.best_step, self.best_loss = self.step, loss
        return better

    def record(self) -> dict[str, Any]:
        """What the manifest says."""
        totals = {
            "steps": self.step, "tokens": self.tokens, "trained_tokens": self.trained_tokens,
            "skipped_steps": self.empty_steps, "nonfinite_steps": self.nonfinite_steps, "loss": self.loss,
            "seconds": round(self.seconds, 1),
        }  # fmt: skip
        if self.best_step >= 0:
            totals |= {"best_step": self.best_step, "best_eval_loss": self.best_loss}
        return totals

    def state(self) -> dict[str, Any]:
        return asdict(self)
