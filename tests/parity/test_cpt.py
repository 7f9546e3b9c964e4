"""Stage cpt against TRL's SFTTrainer on plain text: ids, loss and gradient of a tiny model, recorded by record_cpt.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data.documents import DocumentEncoder
from finetune.data.rows import Sample
from finetune.model.head import TrainedPositions
from finetune.recipe_data import DataSection, SourceSection
from finetune.recipe_stages import CptSection
from finetune.stages.cpt import Cpt
from tests.parity.text_case import TEXTS, letters_tokenizer
from tests.parity.wave import gradient_norm, wave_model

RECORD = json.loads(Path(__file__).with_name("cpt.json").read_text())


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_ids_loss_and_gradient(micro_batch):
    source = SourceSection(path="texts.jsonl")
    stage = Cpt(
        DocumentEncoder(letters_tokenizer()), DataSection(format="text", train=(source,), eval=(source,)), CptSection()
    )
    samples = [Sample({}, ({"role": "text", "content": text},), f"texts.jsonl:{i}") for i, text in enumerate(TEXTS, 1)]
    examples = stage.encode(samples)
    assert sorted(list(example.ids) for example in examples) == RECORD["ids"]
    model = wave_model(0.5)
    batches = [stage.collate(examples[i : i + micro_batch]) for i in range(0, len(examples), micro_batch)]
    count = sum(stage.count(batch) for batch in batches)
    total = 0.0
    for batch in batches:
        wrapped = TrainedPositions(model)
        loss = stage.loss(wrapped, batch).value / count
        loss.backward()
        wrapped.release()
        total += float(loss.detach())
    assert total == pytest.approx(RECORD["loss"], abs=1e-5)
    assert gradient_norm(model) == pytest.approx(RECORD["grad_norm"], rel=1e-5)
