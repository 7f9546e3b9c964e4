"""Records what TRL's RewardTrainer makes of one batch of pairs, for tests/parity/test_reward.py.

pip install trl==1.16.0 && python -m tests.parity.record_reward
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.conftest import byte_tokenizer
from tests.parity.reward_case import CASES, CHOSEN, REJECTED, gradient_norm, tiny_classifier

RECORD = Path(__file__).with_name("reward.json")


def recorded(margins: list[float] | None, center_rewards_coefficient: float | None) -> dict[str, float]:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    columns: dict[str, Any] = {"chosen_ids": CHOSEN, "rejected_ids": REJECTED}
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    model = tiny_classifier()
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=folder, per_device_train_batch_size=len(CHOSEN), report_to=[], use_cpu=True, bf16=False,
                gradient_checkpointing=False, disable_dropout=True,
                center_rewards_coefficient=center_rewards_coefficient, max_length=None,
            ),
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict(columns | ({"margin": margins} if margins else {})),
        )  # fmt: skip
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(CHOSEN))])
        assert ("margin" in batch) == bool(margins)
        model.train()
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        loss.backward()
        metrics = trainer._metrics["train"]
    rewards = outputs.logits.detach().squeeze(-1)
    return {
        "loss": loss.item(),
        "grad_norm": gradient_norm(model),
        "rewards": rewards.tolist(),
        "accuracy": metrics["accuracy"][0],
        "margin": metrics["margin"][0],
        "mean_reward": metrics["mean_reward"][0],
    }


def main() -> None:
    torch.set_num_threads(1)
    numbers = {name: recorded(**case) for name, case in CASES.items()}
    versions = {package: version(package) for package in ("trl", "transformers", "torch", "accelerate")}
    RECORD.write_text(json.dumps({"versions": versions, "cases": numbers}, indent=2) + "\n", encoding="utf-8")
    print(RECORD.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
