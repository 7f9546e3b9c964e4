"""Which extras of finetune a recipe uses: two tables, of conditions and of the endings of its files of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from finetune.recipe import Recipe


def _parts(recipe: Recipe) -> Iterable[Recipe]:
    return recipe.stages or recipe.mixture or (recipe,)


def _optim(recipe: Recipe) -> bool:
    return any(part.train.optim in ("lion", "schedule_free_adamw", "adamw_8bit") for part in _parts(recipe))


USES: dict[str, Callable[[Recipe], bool]] = {
    "gguf": lambda recipe: recipe.model.gguf_file is not None,
    "quantized": lambda recipe: recipe.model.quantization != "none",
    "optim": _optim,
    "trackers": lambda recipe: "tensorboard" in recipe.report_to,
    "lm-eval": lambda recipe: recipe.evaluate.lm_eval is not None,
    "screen": lambda recipe: any(part.data.screen.near_duplicates != "off" for part in _parts(recipe)),
    "llamacpp": lambda recipe: any(target.engine in ("llama.cpp", "ollama") for target in recipe.export.targets),
}
ENDINGS = {
    ".parquet": "parquet", ".arrow": "parquet", ".feather": "parquet", ".xlsx": "excel", ".xlsm": "excel", ".zst": "zstd",
}  # fmt: skip


def extras_of(recipe: Recipe) -> set[str]:
    """Those that the recipe says it uses. What only data templates ask for (units, chinese) is not seen here."""
    return {extra for extra, uses in USES.items() if uses(recipe)}


def extras_of_rows(files: Iterable[Path]) -> set[str]:
    """Those that reading the files needs."""
    return {ENDINGS[suffix] for file in files for suffix in file.suffixes if suffix in ENDINGS}
