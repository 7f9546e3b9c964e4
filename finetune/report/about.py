"""run.json: what a run set out to do, written as it begins, so that one that is stopped can be told of too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.data.prepare import Prepared
    from finetune.device import Placement
    from finetune.recipe import Recipe

ABOUT = "run.json"


def about_run(recipe: Recipe, data: Sequence[Prepared], placement: Placement) -> dict[str, Any]:
    """Recipe, data, device and versions, as plain values.

    Args:
        data: of each stage of a chain, of each part of a mixture, or of the one stage that the recipe is.
    """
    from importlib.metadata import version

    from finetune import device
    from finetune.export.bundle import PACKAGES
    from finetune.inputs import data_record, data_record_of_parts
    from finetune.recipe import resolved

    last = data if recipe.mixture else data[-1:]
    told = {
        "name": recipe.name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": placement.device.name,
        "dtype": placement.dtype,
        "engine": placement.engine,
        "processes": placement.accelerator.num_processes,
        "data": data_record_of_parts(recipe, last, [{}] * len(last)),
        "versions": {package: version(package) for package in PACKAGES},
        "environment": device.environment(placement.device),
        "recipe": resolved(recipe),
    }
    if recipe.stages:
        before = zip(recipe.stages[:-1], data[:-1], strict=True)
        told["data_before"] = {
            stage.name.removeprefix(f"{recipe.name}."): data_record(its, {}) for stage, its in before
        }
    return told
