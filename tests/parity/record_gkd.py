"""Records TRL's GKD loss (generalised JSD) on a fixed tiny model and batch, for tests/parity/test_distill.py.

pip install trl==1.16.0 && python -m tests.parity.record_gkd
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

from tests.parity.wave import ANSWERS, PROMPTS, gradient_norm, wave_model

RECORD = Path(__file__).with_name("gkd.json")


def batch() -> dict[str, torch.Tensor]:
    """The conversations filled up on the right, as TRL's collator makes them."""
    rows = [(*prompt, *answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    for row, prompt in enumerate(PROMPTS):
        labels[row, : len(prompt)] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    from trl.experimental.gkd import GKDTrainer

    trained = sum(map(len, ANSWERS))
    cases = []
    for beta in (0.0, 0.3, 0.5, 1.0):
        for temperature in (1.0, 2.0):
            student, teacher = wave_model(0.5), wave_model(2.0, lora=False)

            def jsd(temperature=temperature, **given):
                return GKDTrainer.generalized_jsd_loss(temperature=temperature, **given)

            trainer = SimpleNamespace(teacher_model=teacher, beta=beta, generalized_jsd_loss=jsd)
            loss = GKDTrainer.compute_loss(trainer, student, batch(), num_items_in_batch=trained)
            loss.backward()
            cases.append(
                {"beta": beta, "temperature": temperature, "loss": loss.item(), "grad_norm": gradient_norm(student)}
            )
    versions = {name: version(name) for name in ("trl", "torch", "transformers", "peft")}
    RECORD.write_text(json.dumps({"versions": versions, "trained": trained, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
