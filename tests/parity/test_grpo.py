"""Stage grpo against TRL's trainer: advantages, loss, gradient and metrics, recorded by record_grpo.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune.data.chat import Example
from finetune.data.template import Metric
from finetune.evaluate.generate import Answer
from finetune.model.head import TrainedPositions
from finetune.recipe_stages import GrpoSection
from finetune.stages import grpo
from finetune.stages.base import means
from finetune.stages.logps import token_logps
from finetune.stages.rollout import Prompt, Rollout
from tests.parity import record_grpo as recorded
from tests.parity.wave import gradient_norm, wave_model

RECORD = json.loads(Path(__file__).with_name("grpo.json").read_text())


def stage_of(case: dict) -> grpo.Grpo:
    given = case["settings"] | {"loss_type": case["settings"]["loss_type"].replace("bnpo", "dapo")}
    clip = {"num_iterations": 2, "epsilon": 0.2, "epsilon_high": 0.28}
    settings = GrpoSection(
        rewards=recorded.WEIGHTS,
        num_generations=3,
        max_completion_length=recorded.MAX_COMPLETION_LENGTH,
        **given,
        **clip,
    )
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
    stage = grpo.Grpo(encoder, SimpleNamespace(padding_free=False), settings)  # type: ignore[arg-type]
    stage.metrics = {"": Metric(name="fields")}
    return stage


def rollouts_of(stage: grpo.Grpo, monkeypatch) -> list[Rollout]:
    """The recorded answers, judged by our stage; the metric gives the recorded scores."""
    monkeypatch.setattr(
        grpo, "score_rows", lambda *_: [{"field_match": score} for score in recorded.REWARDS["field_match"]]
    )
    prompts = [Prompt(tuple(ids), "", "", Example((), (), "row")) for ids in recorded.PROMPTS for _ in range(3)]
    answers = [Answer("", ids[-1] == recorded.STOP, tuple(ids)) for ids in recorded.ANSWERS]
    return stage.judged(prompts, answers)


def stale(model, stage: grpo.Grpo, items: list[Rollout]) -> list[Rollout]:
    """With the log-probabilities of the policy whose adapter was STALE times what it is."""
    scaled = [p for name, p in model.named_parameters() if "lora_B" in name]
    for parameter in scaled:
        parameter.data = parameter.data * recorded.STALE
    found = []
    for item in items:
        batch = stage.collate([item])
        with torch.no_grad():
            logps, _ = token_logps(TrainedPositions(model), batch, temperature=stage.settings.temperature)
        found.append(replace(item, old_logps=tuple(logps.tolist())))
    return found


@pytest.mark.parametrize(
    "case", RECORD["cases"], ids=lambda case: f"{case['settings']['loss_type']} {'stale' if case['stale'] else 'own'}"
)
def test_advantages_loss_gradient_and_metrics(case, monkeypatch):
    """TRL's bnpo over the whole global batch is our dapo."""
    stage = stage_of(case)
    items = rollouts_of(stage, monkeypatch)
    assert [item.advantage for item in items] == pytest.approx(case["advantages"], abs=1e-5)
    if case["stale"]:
        items = stale(wave_model(0.5), stage, items)
    model = wave_model(0.5)
    batch = stage.collate(items)
    loss = stage.loss(TrainedPositions(model), batch)
    value = loss.value / stage.count(batch)
    value.backward()
    assert float(value.detach()) == pytest.approx(case["loss"], abs=1e-5)
    assert gradient_norm(model) == pytest.approx(case["grad_norm"], rel=1e-5)
    ours = means({name: float(total) for name, total in loss.sums.items()} | {"count": stage.count(batch)})
    assert ours.keys() - case["metrics"].keys() == set()
    assert ours == pytest.approx({name: case["metrics"][name] for name in ours}, abs=1e-5)
