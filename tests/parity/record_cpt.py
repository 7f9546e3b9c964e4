"""Records what TRL's SFTTrainer makes of plain texts, for tests/parity/test_cpt.py: ids, loss and gradient norm.

pip install trl==1.16.0 && python -m tests.parity.record_cpt
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.parity.text_case import TEXTS, letters_tokenizer
from tests.parity.wave import gradient_norm, wave_model

RECORD = Path(__file__).with_name("cpt.json")


def main() -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = wave_model(0.5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, per_device_train_batch_size=len(TEXTS), max_length=None, packing=False, report_to=[],
            use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, dataloader_pin_memory=False,
        )  # fmt: skip
        rows = Dataset.from_list([{"text": text} for text in TEXTS])
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=letters_tokenizer())
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        ids = sorted(row["input_ids"] for row in trainer.train_dataset)
    versions = {name: version(name) for name in ("trl", "torch", "transformers", "peft")}
    content = {"versions": versions, "ids": ids, "loss": loss.item(), "grad_norm": gradient_norm(model)}
    RECORD.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
