"""What the stages on preference pairs have in common: two answers to a prompt in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from finetune.data.chat import ChatEncoder
from finetune.data.encode import encode_items
from finetune.data.items import Pair
from finetune.data.rows import Sample
from finetune.recipe_data import DataSection
from finetune.recipe_stages import StageSection
from finetune.stages.base import Batch
from finetune.stages.batch import collate_rows
from finetune.stages.logps import lengths, sequence_logps, token_logps
from finetune.stages.preference import share_preferred
from finetune.stages.shared_rows import collate_shared


@dataclass(frozen=True)
class Answers:
    """The answers of the pairs that train, P' of them.

    Attributes:
        chosen, rejected: (P',) log-probability of the answer, in nats.
        chosen_length, rejected_length: (P',) its tokens.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_length: torch.Tensor
    rejected_length: torch.Tensor

    @property
    def mean_chosen(self) -> torch.Tensor:
        """(P',) a token."""
        return self.chosen / self.chosen_length

    @property
    def mean_rejected(self) -> torch.Tensor:
        """(P',) a token."""
        return self.rejected / self.rejected_length


class PairStage:
    """Pairs to batches. The loss, a sum over pairs, is the stage's own."""

    unit = "pairs"
    settings: StageSection
    prefix_sharing = False  # as `collate_shared`: for models that were asked, see prefix_probe.py

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, settings: StageSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Pair]:
        return encode_items(self.encoder, self.data, "preference", samples)

    def collate(self, items: Sequence[Pair]) -> Batch:
        """As `collate_rows` of all chosen conversations, then all rejected ones: (2P, T); or as `collate_shared`.

        Returns:
            Besides: `real`: (P,) bool, false where a pair has nothing to train on; `pairs`: (P',) the others;
            `reference`: (2P,) the reference's log-probabilities, where all pairs come with them (see reference_logps.py).
        """
        rows = [*(pair.chosen for pair in items), *(pair.rejected for pair in items)]
        pad_id = self.encoder.tokenizer.pad_token_id
        if self.prefix_sharing:
            batch = collate_shared(items, pad_id, self.pad_to_multiple_of)
        else:
            batch = collate_rows(rows, pad_id, self.pad_to_multiple_of)
        batch["real"] = torch.tensor([pair.chosen.trained > 0 and pair.rejected.trained > 0 for pair in items])
        batch["pairs"] = batch["real"].nonzero()[:, 0]
        if all(row.marks for row in rows):
            batch["reference"] = torch.tensor([row.marks[-1] for row in rows])
        return batch

    def count(self, batch: Batch) -> int:
        """Pairs that train."""
        return int(batch["real"].sum())

    def answers(self, model: torch.nn.Module, batch: Batch) -> Answers:
        """One forward pass over both answers of all pairs."""
        pairs, rows = batch["pairs"], 2 * len(batch["real"])
        logps = row_logps(model, batch, rows).view(2, -1)[:, pairs]  # (2, P')
        counts = lengths(batch["rows"], rows).view(2, -1)[:, pairs]
        return Answers(logps[0], logps[1], counts[0], counts[1])

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """`chosen_preferred`: share of held-out pairs whose better answer is the likelier one a token; ties half."""
        return {"chosen_preferred": means["chosen_preferred"]}


def row_logps(model: torch.nn.Module, batch: Batch, rows: int) -> torch.Tensor:
    """(B,) log-probability of each row's trained tokens, for a batch of `collate_rows` or `collate_shared` with B = `rows`."""
    logps, _likeliest = token_logps(model, batch)
    return sequence_logps(logps, batch["rows"], rows)


def reward_sums(
    answers: Answers, chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What every stage on pairs logs, under TRL's names, and `chosen_preferred`; sums over the pairs.

    Args:
        chosen_rewards, rejected_rewards: (P',) what the loss implicitly takes for the answers' rewards; detached here.
    """
    chosen_rewards, rejected_rewards = chosen_rewards.detach(), rejected_rewards.detach()
    return {
        "rewards/chosen": chosen_rewards.sum(),
        "rewards/rejected": rejected_rewards.sum(),
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float().sum(),
        "rewards/margins": (chosen_rewards - rejected_rewards).sum(),
        "chosen_preferred": share_preferred(answers.mean_chosen.detach(), answers.mean_rejected.detach()).sum(),
    }
