"""A tiny reward recipe: pairs of answers to which of two digits is larger, judged on two aspects."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from finetune.recipe import Recipe
from finetune.recipefile import load_recipe


def pair(a: int, b: int) -> dict:
    """The right answer is `chosen` where they differ; the form is said to be better in one, in the other, or not at all."""
    right, wrong = max(a, b), min(a, b)
    return {
        "prompt": f"{a} {b}?",
        "chosen": f"larger {right}" + " indeed" * (a % 3),
        "rejected": f"larger {wrong}" if a != b else f"large {wrong}",
        "margin": [None, 0.25, 1][b % 3],
        "aspects": {"right": "chosen" if a != b else "tie", "form": ("chosen", "rejected", None)[a % 3]},
        "group": f"g{(a * 7 + b) % 20}",
    }


def reward_recipe(folder: Path, base: Path, *overrides: str) -> Recipe:
    """31 pairs to train on, 9 held out; two aspects, the second with weight 2; the run goes to folder/run."""
    rows = [pair(a, b) for a in range(8) for b in range(5)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "name": "judge",
        "stage": "reward",
        "output_dir": str(folder / "run"),
        "seed": 3,
        "device": "cpu",
        "model": {"name_or_path": str(base), "dtype": "float32"},
        "lora": {"r": 4, "lora_alpha": 8},
        "data": {
            "format": "preference",
            "train": str(folder / "pairs.jsonl"),
            "split": {"by": "group", "eval_rows": 8},
        },
        "reward": {"aspects": {"right": 1.0, "form": 2.0}, "center_rewards_coefficient": 0.01},
        "train": {"global_batch_size": 4, "max_steps": 9, "learning_rate": 0.01},
        "gate": {"better_than_base": False},
        "export": {"parity_rows": 4},
    }
    file = folder / "judge.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return load_recipe(file, overrides)
