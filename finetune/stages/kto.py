"""Kahneman-Tversky optimisation: answers that somebody found good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from finetune.data.chat import ChatEncoder, Example
from finetune.data.encode import encode_items
from finetune.data.items import Labelled
from finetune.data.rows import Sample
from finetune.model.reference import reference
from finetune.recipe_data import DataSection
from finetune.recipe_stages import KtoSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows
from finetune.stages.logps import lengths
from finetune.stages.pairs import row_logps
from finetune.stages.preference import kto

OTHER = "mismatched "  # before the names of the mismatched answers' tensors


class Kto:
    """Loss = sum over answers of `preference.kto`, around the policy's distance to its reference over the global batch.

    The distance is estimated as in section 4.1 of Ethayarajh et al. 2024 (arXiv 2402.01306), on prompts with answers of
    other rows: max(0, mean log-ratio). The mean is that over the whole global batch, taken before the step's losses, so
    that it does not depend on how the batch is split (the paper and TRL take it over what a device holds at a time).
    """

    unit = "answers"

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, settings: KtoSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Labelled]:
        return encode_items(self.encoder, self.data, "labelled", samples)

    def collate(self, items: Sequence[Labelled]) -> Batch:
        """As `collate_rows` of the answers (B, T), and of the mismatched ones under names that begin with OTHER.

        Returns:
            Besides: `real`, `desirable`: (B,) bool; `trained`: (B',), which rows are real; `reference`: (B,), for both,
            where all items come with it (see reference_logps.py).
        """
        batch = self._rows([item.answer for item in items])
        other = self._rows([item.mismatched for item in items])
        if all(len(item.marks) > 1 for item in items):
            batch["reference"] = torch.tensor([item.marks[-1] for item in items])
            other["reference"] = torch.tensor([item.mismatched.marks[-1] for item in items])
        batch["desirable"] = torch.tensor([item.marks[0] == 1 for item in items])
        batch["tokens"] = batch["tokens"] + other["tokens"]
        return batch | {OTHER + name: tensor for name, tensor in other.items()}

    def _rows(self, rows: Sequence[Example]) -> Batch:
        batch = collate_rows(rows, self.encoder.tokenizer.pad_token_id, self.pad_to_multiple_of)
        real = torch.tensor([row.trained > 0 for row in rows])
        return batch | {"real": real, "trained": real.nonzero()[:, 0]}

    def count(self, batch: Batch) -> int:
        """Answers that train."""
        return int(batch["real"].sum())

    def shared(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(2,): sum of the log-ratios of the mismatched answers, and how many they are."""
        other = {name.removeprefix(OTHER): tensor for name, tensor in batch.items() if name.startswith(OTHER)}
        with torch.no_grad():
            ratio = row_logps(model, other, len(other["real"])) - _reference(model, other)
        return torch.stack([ratio[other["trained"]].sum(), other["real"].sum().to(ratio.dtype)])

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        """With the `shared` of the global batch; of this batch alone where there is none."""
        settings, trained, rows = self.settings, batch["trained"], len(batch["real"])
        total, count = batch["shared"] if "shared" in batch else self.shared(model, batch)
        kl = (total / count.clamp(min=1)).clamp(min=0).float()
        before = _reference(model, batch)[trained]
        logps = row_logps(model, batch, rows)[trained]
        desirable = batch["desirable"][trained]
        weights = settings.desirable_weight, settings.undesirable_weight
        losses = kto(logps - before, desirable, kl, settings.beta, *weights)
        tokens = lengths(batch["rows"], rows)[trained]
        now = logps.detach()
        sums = {"kl": kl * len(now)}
        for side, mine in (("chosen", desirable), ("rejected", ~desirable)):  # TRL's names for good and bad answers
            values = {
                "rewards": settings.beta * (now - before),
                "logps": now,
                "logps_per_token": now / tokens,
            }
            for name, value in values.items():
                sums[f"{name}/{side}"] = torch.where(mine, value, 0.0).sum()
                sums[f"{name}/{side}:count"] = mine.sum()
        return LossSum(losses.sum(), sums)

    def reference_logps(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(B, 2) log-probabilities under the reference, of the answers and of the mismatched ones."""
        other = {name.removeprefix(OTHER): tensor for name, tensor in batch.items() if name.startswith(OTHER)}
        return torch.stack([_reference(model, batch), _reference(model, other)], dim=1)

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """`desirable_margin`: by how many nats a token the good held-out answers are likelier than the bad ones; nothing
        where the held-out rows are all good or all bad."""
        good, bad = means.get("logps_per_token/chosen"), means.get("logps_per_token/rejected")
        return {} if good is None or bad is None else {"desirable_margin": good - bad}


def _reference(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(B,) log-probabilities of the rows under the reference: out of the batch, or computed."""
    if "reference" in batch:
        return batch["reference"]
    with reference(model) as policy:
        return row_logps(policy, batch, len(batch["real"]))
