"""Group relative policy optimisation (GRPO, arXiv 2402.03300) with rewards that the data's own metric gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.length import fit
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.device import Placement
from finetune.errors import DataError, RecipeError
from finetune.evaluate.generate import Answer, with_calls
from finetune.evaluate.metrics import Scores, score_rows
from finetune.evaluate.sample import Sampling, sample_answers
from finetune.model.reference import reference
from finetune.recipe_data import DataSection
from finetune.recipe_stages import GrpoSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows, on_device
from finetune.stages.group import advantages, kl_to_reference, policy_loss
from finetune.stages.logps import token_logps
from finetune.stages.rollout import Prompt, Rollout

FINISHED = "finished"  # the reward of an answer that came to a stop token


class Grpo:
    """Loss = the clipped policy loss of each token, with the KL to the reference, averaged as `loss_type` says.

    Attributes:
        unit: what it is averaged over: tokens (`dapo`) or answers.
        metrics: set by `prepare`, before the first step.
    """

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, settings: GrpoSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of
        self.unit = "tokens" if settings.loss_type == "dapo" else "answers"
        self.num_iterations = settings.num_iterations
        self.metrics: Mapping[str, Metric] = {}

    def prepare(self, model: Any, metrics: Mapping[str, Metric], placement: Placement) -> dict[str, Any]:
        """Keeps the metrics.

        Raises:
            RecipeError: the launcher spreads the model over processes.
        """
        if placement.engine not in ("single", "ddp"):
            raise RecipeError(
                f"launcher: stage grpo generates with the model that is trained, and {placement.engine} does not hold it "
                "whole in every process; launch with scripts/accelerate/single.yaml or ddp.yaml"
            )
        self.metrics = metrics
        return {}

    def encode(self, samples: Sequence[Sample]) -> list[Prompt]:
        """Prompts whose conversation, with the reference answer, has at most `data.max_length` tokens.

        Raises:
            DataError: all problems of all of them; also when nothing is left.
        """
        prompts: list[Prompt] = []
        problems: list[str] = []
        rows = fit(self.encoder, samples, self.data.max_length, self.data.too_long)
        for sample, row in zip(samples, rows, strict=True):
            problems += row.problems
            if row.examples:
                ids = self.encoder.encode_prompt(sample.prompt, sample.tools, sample.where)
                prompts.append(Prompt(tuple(ids), sample.answer, sample.task, row.examples[-1], sample.tools))
        if not prompts and not problems:
            problems.append(f"data.max_length: all {len(samples)} rows are longer than {self.data.max_length} tokens")
        if problems:
            raise DataError(problems)
        return prompts

    def explore(self, model: Any, chosen: Sequence[Prompt], seed: int, placement: Placement) -> list[Rollout]:
        """`num_generations` answers of the model to each prompt, with their rewards and advantages."""
        wrapped = placement.accelerator.unwrap_model(model)
        prompts = [prompt for prompt in chosen for _ in range(self.settings.num_generations)]
        rollouts = self.judged(prompts, self._answers(wrapped, prompts, seed, placement))
        return self._with_old_logps(wrapped, rollouts, placement) if self.num_iterations > 1 else rollouts

    def look(self, model: Any, held_out: Sequence[Prompt], placement: Placement) -> dict[str, float]:
        """The mean rewards of one greedy answer to each prompt; `eval_loss` is minus their weighted sum."""
        wrapped = placement.accelerator.unwrap_model(model)
        answers = self._answers(wrapped, held_out, None, placement)
        rows = self._scored(held_out, answers)
        rewards = [self._reward(row) for row in rows]
        found = {"eval_loss": -fmean(rewards), "eval_reward": fmean(rewards)}
        for name in self.settings.rewards:
            given = [row[name] for row in rows if name in row]
            found |= {f"eval_rewards/{name}/mean": fmean(given)} if given else {}
        return found

    def judged(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Rollout]:
        """Rewards and advantages of answers, those to one prompt one after the other.

        Args:
            prompts: of each answer.
        """
        given = self._scored(prompts, answers)
        scores = [tuple(row.get(name) for name in self.settings.rewards) for row in given]
        weighted = [self._reward(row) for row in given]
        rewards = torch.tensor(weighted, dtype=torch.float64).view(-1, self.settings.num_generations)
        values, std = advantages(rewards, self.settings.scale_rewards)
        whole_std = float(rewards.std())
        same = (std < 1e-8).repeat_interleave(self.settings.num_generations).tolist()
        return [
            Rollout(
                Example((*prompt.ids, *answer.ids), (IGNORED,) * len(prompt.ids) + answer.ids, prompt.where),
                answer.finished, scores[i], weighted[i], float(values.flatten()[i]), whole_std, same[i],
            )
            for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]  # fmt: skip

    def collate(self, items: Sequence[Rollout]) -> Batch:
        """As `collate_rows`, and of each answer (B,): `advantages`, `rewards`, `reward_std`, `same`, `finished`,
        `scores` (B, rewards; nan where there is none); `lengths`, its trained tokens; `old_logps` (N,) where they are
        not the policy's own. `rows` (N,) is which answer each trained position is of."""
        pad_id = self.encoder.tokenizer.pad_token_id
        rows = [item.example for item in items]
        batch = collate_rows(rows, pad_id, self.pad_to_multiple_of, self.data.padding_free)
        if self.data.padding_free:  # one row of documents
            batch["rows"] = ((batch["position_ids"] == 0).cumsum(1) - 1).flatten()[batch["kept"]]
        nan = float("nan")
        if items[0].old_logps is not None:
            batch["old_logps"] = torch.tensor([logp for item in items for logp in item.old_logps or ()])
        return batch | {
            "advantages": torch.tensor([item.advantage for item in items]),
            "rewards": torch.tensor([item.reward for item in items]),
            "reward_std": torch.tensor([item.reward_std for item in items]),
            "same": torch.tensor([item.same for item in items]),
            "finished": torch.tensor([item.finished for item in items]),
            "scores": torch.tensor([[nan if score is None else score for score in item.scores] for item in items]),
            "lengths": torch.bincount(batch["rows"], minlength=len(items)),
        }

    def count(self, batch: Batch) -> int:
        """Answers' tokens, or answers."""
        return batch["targets"].numel() if self.unit == "tokens" else int((batch["lengths"] > 0).sum())

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        own, rows, lengths = self.settings, batch["rows"], batch["lengths"]
        if own.beta:  # first: it may change the weights in place for a moment, which autograd's graph would not bear
            with reference(model) as policy:
                before, _likeliest = token_logps(policy, batch, temperature=own.temperature)
        logps, _, entropy = token_logps(model, batch, temperature=own.temperature, with_entropy=True)  # (N,) each
        old = batch.get("old_logps", logps.detach())
        clipped = policy_loss(logps, old, batch["advantages"][rows], *own.clip)
        per_token = clipped.loss
        sums = {"entropy": entropy.sum()}
        if own.beta:
            kl = kl_to_reference(logps, before)
            kl = kl if own.use_bias_correction_kl is False else kl * clipped.ratio
            per_token = per_token + own.beta * kl
            sums["kl"] = kl.detach().sum()
        if own.num_iterations > 1:
            sums["clip_ratio/low_mean"], sums["clip_ratio/high_mean"] = clipped.low.sum(), clipped.high.sum()
            sums["clip_ratio/region_mean"] = (clipped.low | clipped.high).sum()
        sums |= {f"{name}:count": torch.tensor(len(rows), device=rows.device) for name in sums}
        if own.loss_type == "grpo":
            per_token = per_token / lengths[rows]
        elif own.loss_type == "dr_grpo":
            per_token = per_token / own.max_completion_length
        return LossSum(per_token.sum(), sums | self._sums_of_answers(batch))

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        return {}

    def _answers(self, wrapped: Any, prompts: Sequence[Prompt], seed: int | None, placement: Placement) -> list[Answer]:
        own = self.settings
        sampling = Sampling(
            own.max_completion_length, own.temperature, own.top_p, own.top_k, own.rollout_batch_size, own.engine
        )
        ids = [prompt.ids for prompt in prompts]
        tokenizer = self.encoder.tokenizer
        answers = sample_answers(wrapped.model, tokenizer, ids, seed, sampling, placement)
        return [with_calls(item, prompt.tools, tokenizer) for item, prompt in zip(answers, prompts, strict=True)]

    def _scored(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Scores]:
        """The scores of each answer by its prompt's metric, and `finished`."""
        rows = score_rows(
            [answer.text for answer in answers],
            [prompt.reference for prompt in prompts],
            [self.metrics[prompt.task] for prompt in prompts],
        )
        return [row | {FINISHED: float(answer.finished)} for row, answer in zip(rows, answers, strict=True)]

    def _reward(self, scores: Scores) -> float:
        """The weighted sum of those that are rewarded."""
        return sum(weight * scores.get(name, 0.0) for name, weight in self.settings.rewards.items())

    def _sums_of_answers(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Under TRL's names, each with how many answers it is of."""
        lengths = batch["lengths"]
        answered = lengths > 0
        finished = batch["finished"] & answered
        of_answers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
            "reward": (batch["rewards"], answered),
            "reward_std": (batch["reward_std"], answered),
            "frac_reward_zero_std": (batch["same"], answered),
            "completions/mean_length": (lengths, answered),
            "completions/mean_terminated_length": (lengths, finished),
            "completions/clipped_ratio": (~batch["finished"], answered),
        }
        for number, name in enumerate(self.settings.rewards):
            column = batch["scores"][:, number]
            of_answers[f"rewards/{name}/mean"] = (column, answered & ~column.isnan())
        # Not values[mask]: for the number of its entries the host would wait.
        sums = {name: values.masked_fill(~mask, 0).sum() for name, (values, mask) in of_answers.items()}
        return sums | {f"{name}:count": mask.sum() for name, (_values, mask) in of_answers.items()}

    def _with_old_logps(self, wrapped: Any, rollouts: list[Rollout], placement: Placement) -> list[Rollout]:
        """The answers with what the policy gives their tokens now, before it is changed; each process does its share."""
        from accelerate.utils import gather_object

        accelerator = placement.accelerator
        mine = range(accelerator.process_index, len(rollouts), accelerator.num_processes)
        found: list[tuple[int, list[float]]] = []
        wrapped.eval()
        with torch.no_grad(), placement.autocast():
            for index in mine:
                batch = self.collate([rollouts[index]])
                batch = on_device(batch, accelerator.device)
                logps, _likeliest = token_logps(wrapped, batch, temperature=self.settings.temperature)
                found.append((index, logps.tolist()))
        wrapped.train()
        everyone = dict(gather_object(found) if accelerator.num_processes > 1 else found)
        return [replace(item, old_logps=tuple(everyone[index])) for index, item in enumerate(rollouts)]
