"""Records TRL's GRPO (advantages, metrics, loss, gradient) on fixed answers of a fixed tiny model, for test_grpo.py.

The trainer is TRL's own; only its generation is replaced, by the answers below.

pip install trl==1.16.0 datasets && python -m tests.parity.record_grpo
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.conftest import byte_tokenizer
from tests.parity.wave import gradient_norm, wave_model

RECORD = Path(__file__).with_name("grpo.json")
STOP = 1
MAX_COMPLETION_LENGTH = 6
# Two prompts with three answers each, one of them cut before its stop token; and two rewards of each answer.
PROMPTS = [[5, 9, 14, 3], [31, 8]]
ANSWERS = [[21, 33, 4, 1], [50, 1], [12, 19, 40, 7, 22, 9], [25, 11, 58, 1], [33, 2, 1], [45, 1]]
REWARDS = {"field_match": [0.5, 0.0, 0.75, 1.0, 0.25, 0.0], "finished": [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]}
WEIGHTS = {"field_match": 1.0, "finished": 0.1}
SETTINGS: list[dict[str, Any]] = [
    {"loss_type": "dapo", "beta": 0.0, "scale_rewards": "group", "temperature": 1.0},
    {"loss_type": "bnpo", "beta": 0.0, "scale_rewards": "group", "temperature": 1.0},
    {"loss_type": "grpo", "beta": 0.04, "scale_rewards": "group", "temperature": 0.7},
    {
        "loss_type": "grpo",
        "beta": 0.04,
        "scale_rewards": "group",
        "temperature": 1.0,
        "use_bias_correction_kl": False,
    },
    {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none", "temperature": 1.0},
    {"loss_type": "dapo", "beta": 0.1, "scale_rewards": "batch", "temperature": 0.7},
]
# The policy that sampled, where it is not the one that is trained: so many times its adapter.
STALE = 0.6


def trainer_of(model: Any, settings: dict[str, Any], folder: str) -> Any:
    """TRL's trainer with its generation replaced."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(name: str) -> Any:
        def function(completions: list[str], **_rest: Any) -> list[float]:
            return REWARDS[name]

        function.__name__ = name
        return function

    config = GRPOConfig(
        folder, use_cpu=True, bf16=False, report_to=[], num_generations=3, per_device_train_batch_size=6,
        gradient_accumulation_steps=1, max_completion_length=MAX_COMPLETION_LENGTH, epsilon=0.2, epsilon_high=0.28,
        reward_weights=list(WEIGHTS.values()), gradient_checkpointing=False, **settings,
    )  # fmt: skip
    tokenizer = byte_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = tokenizer.convert_ids_to_tokens([0, STOP])
    model.generation_config.eos_token_id = STOP
    trainer = GRPOTrainer(
        model, [reward(name) for name in WEIGHTS], config, Dataset.from_list([{"prompt": "a"}] * 6),
        processing_class=tokenizer,
    )  # fmt: skip
    if "ref" in model.peft_config:  # TRL takes the adapter for one to go on from; the reference here is the base
        model.delete_adapter("ref")
    trainer.eos_token_ids = [STOP]
    trainer.current_gradient_accumulation_steps = 1
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    trainer._generate_single_turn = lambda *_given, **_rest: (ANSWERS, None)
    trainer._tokenize_prompts = lambda _prompts: (prompts, None, {})
    return trainer


def recorded(settings: dict[str, Any], stale: bool) -> dict[str, Any]:
    """What TRL makes of the answers under these settings."""
    model = wave_model(0.5)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, settings, folder)
        trainer.model.train()
        inputs = trainer._generate_and_score_completions([{"prompt": "a"}] * 6)
        if stale:
            inputs["old_per_token_logps"] = stale_logps(trainer, inputs)
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
    values = {name: value[0] for name, value in trainer._metrics["train"].items() if len(value) == 1}
    return {
        "settings": settings,
        "stale": stale,
        "advantages": inputs["advantages"].tolist(),
        "loss": loss.item(),
        "grad_norm": gradient_norm(model),
        "metrics": values,
    }


def stale_logps(trainer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of the answers when the adapter's B matrices were STALE times what they are."""
    scaled = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    kept = [parameter.data for parameter in scaled]
    for parameter in scaled:
        parameter.data = parameter.data * STALE
    with torch.no_grad():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
        )
    for parameter, data in zip(scaled, kept, strict=True):
        parameter.data = data
    return logps


def main() -> None:
    cases = [recorded(settings, stale) for settings in SETTINGS for stale in (False, True)]
    versions = {name: version(name) for name in ("trl", "torch", "transformers", "peft")}
    RECORD.write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
