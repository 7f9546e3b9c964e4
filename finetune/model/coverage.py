"""A plain statement of what an adapter covers: parameters, layers by kind, and what it leaves as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.model.targets import experts_hint

WRAPPED = ".base_layer"  # what peft puts into the name of a module that it has wrapped


@dataclass(frozen=True)
class Coverage:
    """Counts of parameters, and of layers and fused expert parameters by kind: with an adapter, and without one.

    Attributes:
        hint: how the experts would be covered, where they are not.
        note: what else there is to say of the method; of one that lies in no layer all there is.
    """

    trainable: int
    total: int
    matched: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    hint: str = ""
    note: str = ""

    def line(self) -> str:
        """One line for the console."""
        share = 100 * self.trainable / self.total
        counts = f"{self.trainable:,} of {self.total:,} parameters trained ({share:.2f} %)"
        note = f"; {self.note}" if self.note else ""
        if not self.matched and not self.unmatched:
            return f"{counts}{note}"
        covered = ", ".join(f"{name} x{count}" for name, count in self.matched.items()) or "no layer"
        rest = ", ".join(f"{name} x{count}" for name, count in self.unmatched.items()) or "none"
        return f"{counts}; on {covered}; without: {rest}{self.hint}{note}"


def coverage_of(
    peft_model: Any, part: str, linear: Sequence[str], fused: Sequence[str], head: str | None, note: str = ""
) -> Coverage:
    """What the adapter of `peft_model` covers.

    Args:
        part: what an adapted layer has and another one has not.
        linear, fused: names of the base's linear layers and fused parameters before it was wrapped.
        head: the output layer, which is no miss.
    """
    base = peft_model.get_base_model()
    adapted = set()
    for name, module in base.named_modules():
        if hasattr(module, part):
            plain = name.replace(WRAPPED, "")
            adapted.add(f"{plain}.{module.parameter_name}" if hasattr(module, "parameter_name") else plain)
    trainable, total = peft_model.get_nb_trainable_parameters()  # a packed 4-bit weight counts as what it holds
    matched = Counter(kind(name, fused) for name in sorted(adapted))
    left = [name for name in (*sorted(linear), *sorted(fused)) if name not in adapted and name != head]
    hint = experts_hint(name for name in fused if name not in adapted) if part == "lora_A" else ""
    return Coverage(trainable, total, dict(matched), dict(Counter(kind(name, fused) for name in left)), hint, note)


def kind(name: str, fused: Sequence[str]) -> str:
    """A layer's name without where it is; of an expert parameter with the module that holds it."""
    return ".".join(name.split(".")[-2 if name in fused else -1 :])
