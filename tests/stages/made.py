"""Tiny runs of the preference stages: pairs and labelled answers about the larger of two digits."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from finetune.recipe import Recipe
from finetune.recipefile import load_recipe

DIGITS = [(a, b) for a in range(8) for b in range(5) if a != b]  # 35 rows


def write_pairs(file: Path) -> Path:
    """The larger digit is chosen, the smaller one rejected; answers of different lengths."""
    rows = [
        {
            "prompt": f"{a} {b}?",
            "chosen": f"larger {max(a, b)}" + "!" * (a % 3),
            "rejected": f"larger {min(a, b)}" + "?" * (b % 4),
        }
        for a, b in DIGITS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_labelled(file: Path) -> Path:
    """Two answers to every prompt, one after the other: the larger digit is good, the smaller one bad."""
    rows = [
        {"prompt": f"{a} {b}?", "completion": f"larger {pick(a, b)}" + "!" * (a % 3), "label": pick is max}
        for a, b in DIGITS[:20]
        for pick in (max, min)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def load_tiny(folder: Path, base: Path, stage: str, *overrides: str) -> Recipe:
    """The recipe of a run of seconds; it goes to folder/run."""
    labelled = stage == "kto"
    data = write_labelled(folder / "rows.jsonl") if labelled else write_pairs(folder / "rows.jsonl")
    recipe = {
        "name": stage,
        "stage": stage,
        "output_dir": str(folder / "run"),
        "seed": 3,
        "device": "cpu",
        "model": {"name_or_path": str(base), "dtype": "float32"},
        "lora": {"r": 4, "lora_alpha": 8},
        "data": {"format": "labelled" if labelled else "preference", "train": str(data), "split": {"eval_rows": 6}},
        "train": {"global_batch_size": 4, "max_steps": 9, "learning_rate": 0.01},
        "evaluate": {"max_new_tokens": 4},
        "gate": {"better_than_base": False},
        "export": {"parity_rows": 2},
    }
    file = folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return load_recipe(file, overrides)
