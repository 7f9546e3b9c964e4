"""Stage distill against TRL's GKD: loss and gradient of a tiny model, recorded by record_gkd.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.model.head import TrainedPositions
from finetune.model.teacher import Teacher
from finetune.recipe_stages import DistillSection
from finetune.stages.distill import Distill
from tests.parity.wave import ANSWERS, PROMPTS, collated, gradient_norm, wave_model

RECORD = json.loads(Path(__file__).with_name("gkd.json").read_text())


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: f"beta {case['beta']} at {case['temperature']}")
def test_loss_and_gradient(case):
    settings = DistillSection(
        teacher={"name_or_path": "x"}, beta=case["beta"], temperature=case["temperature"], alpha=0.0
    )
    stage = Distill(None, None, settings)  # type: ignore[arg-type]
    stage.teacher = Teacher(TrainedPositions(wave_model(2.0, lora=False)), {})
    student = wave_model(0.5)
    batch = collated(PROMPTS, ANSWERS)
    value = stage.loss(TrainedPositions(student), batch).value / stage.count(batch)
    value.backward()
    assert stage.count(batch) == RECORD["trained"]
    assert float(value.detach()) == pytest.approx(case["loss"], abs=1e-5)
    assert gradient_norm(student) == pytest.approx(case["grad_norm"], rel=1e-5)
