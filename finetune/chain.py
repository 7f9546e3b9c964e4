"""Between the stages of a chain: which are finished, what the next goes on from, which rows leak from one to another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checkpoint.disk import replace_file
from finetune.data.duplicates import PRINTS, find_overlap
from finetune.data.prepare import Prepared
from finetune.errors import CheckpointError, RecipeError
from finetune.recipe import Recipe, resolved

if TYPE_CHECKING:
    import torch

    from finetune.device import Placement

BASE = "base"  # in the run's folder: a base that only this run has
KEPT = ("stages", BASE)  # in the run's folder, what earlier stages leave there
OF = "merged_from.json"  # in a folder that a stage was merged into
DONE = "stage.json"  # in a stage's folder once it is finished
SHOWN = 20  # leaked rows that are named


def check_leaks(stages: Sequence[Recipe], data: Sequence[Prepared]) -> None:
    """The held-out rows of the last stage are in no stage's training rows: `data.screen` looks inside a stage only.

    Raises:
        RecipeError: rows that are, where the last stage's `data.screen.train_eval_overlap` says `error` (its default).
            Under `drop` it says so too: a row is not taken out of another stage's data.
    """
    policy = stages[-1].data.screen.train_eval_overlap
    if policy not in ("error", "drop"):
        return
    last = data[-1].evaluate
    problems = []
    for stage, its in zip(stages[:-1], data[:-1], strict=True):
        prints = [{str(how): samples.facts(how) for how in PRINTS} for samples in (its.train, last)]
        found = find_overlap(*prints) if last else []
        problems += [
            f"{its.train[row].where}: trained on in stage {stage.name}, held out in {stages[-1].name} as "
            f"{last[twin].where} ({how})"
            for row, twin, how in found[:SHOWN]
        ]
        if len(found) > SHOWN:
            problems.append(f"stage {stage.name}: {len(found) - SHOWN} more such rows")
    if problems:
        advice = "stages: hold the same rows out of every stage, or set data.screen.train_eval_overlap: report"
        raise RecipeError([*problems, advice])


class Before:
    """What the finished stages of a chain leave to the next one.

    Attributes:
        recipe: of the whole chain.
        told: what each finished stage's `stage.json` says of it.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.told: list[dict[str, Any]] = []
        self._base: Path | None = None  # that stages were merged into
        self._adapter: Path | None = None  # that the next stage may train further
        self._last_merged = max((i for i, s in enumerate(recipe.stages) if s.continue_from == "merged"), default=0)

    def go_on(self, stage: Recipe) -> Recipe:
        """The recipe of the next stage with what it goes on from; a chain's own recipe counts as its last stage."""
        changes: dict[str, Any] = {}
        if self._base is not None:
            changes = {"name_or_path": str(self._base), "revision": None, "gguf_file": None}
        if self._adapter is not None:
            changes["adapter_name_or_path"] = str(self._adapter)
        model = stage.model.model_copy(update=changes)
        return stage.model_copy(update={"model": model, "stages": ()})

    def finished(self, stage: Recipe, sources: Sequence[Any]) -> dict[str, Any] | None:
        """What the stage left behind when it ended; None when it has not.

        Args:
            sources: its files as they are now, with their hashes.

        Raises:
            RecipeError: it was another stage than this one.
        """
        file = stage.output_dir / DONE
        if not file.is_file():
            return None
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            before, now = told["facts"], self._facts(stage, sources)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{file}: damaged: {error}") from None
        changed = [
            f"stage {stage.name}: its {key} changed since it finished" for key in now if before.get(key) != now[key]
        ]
        if changed:
            raise RecipeError(
                [*changed, f"{self.recipe.output_dir}: this would be another run; give it another folder"]
            )
        return told

    def finish(self, stage: Recipe, told: dict[str, Any], placement: Placement) -> dict[str, Any]:
        """Notes that a stage is at its end, its adapter in its folder."""
        told = json.loads(json.dumps({"facts": self._facts(stage, told["data"]["sources"]), **told}))
        if placement.accelerator.is_main_process:
            replace_file(stage.output_dir / DONE, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
        placement.accelerator.wait_for_everyone()
        return told

    def add(self, stage: Recipe, told: dict[str, Any], placement: Placement, say: Callable[[str], None]) -> None:
        """Goes on from a finished stage; merges it where the next stage says so and nobody has yet."""
        self.told.append({key: told[key] for key in ("name", "stage", "training", "data")})
        following = len(self.told)
        self._adapter = stage.output_dir / "adapter"
        if self.recipe.stages[following].continue_from != "merged":
            return
        last = following == self._last_merged
        output = (self.recipe.output_dir if last else stage.output_dir) / (BASE if last else "merged")
        if placement.accelerator.is_main_process and not _is_merged(output, self._adapter):
            merge_stage(told, self._adapter, output, placement.torch_dtype, say)
        placement.accelerator.wait_for_everyone()
        self._base, self._adapter = output.resolve(), None

    def _facts(self, stage: Recipe, sources: Sequence[Any]) -> dict[str, Any]:
        """What must be the same for a finished stage to stay one."""
        free = ("output_dir", "report_to", "evaluate", "gate", "export", "card")
        told = {key: value for key, value in resolved(stage).items() if key not in free}
        return json.loads(json.dumps({"recipe": told, "files": list(sources)}))


def merge_stage(
    told: Mapping[str, Any], adapter: Path, output: Path, dtype: torch.dtype, say: Callable[[str], None]
) -> None:
    """A stage's base with its adapter merged into it, as a folder to go on from; whole or not there.

    Args:
        told: the stage's `source`, `stops` and `quantization`: of a quantised base, the weights as that left them.

    Raises:
        RecipeError, GateError: as export.merge.
    """
    from finetune.export.canon import canonical
    from finetune.export.layout import write_layout
    from finetune.export.merge import merge
    from finetune.model.load import Source
    from finetune.model.save import INITIAL

    source = Source(**told["source"])
    draft = output.with_name(f".{output.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    initial = adapter / INITIAL
    base = source.folder()
    canonical(adapter, draft / "adapter", initial if initial.is_file() else None, base)
    quantization = told.get("quantization")
    merged = merge(
        base, draft / "adapter", draft, dtype, quantization=quantization, trained=dtype,
        trust_remote_code=source.trust_remote_code,
    )  # fmt: skip
    write_layout(
        base, draft / "adapter", draft, dtype=merged.dtype, tied=merged.tied, vocabulary=merged.vocabulary, stops=told["stops"],
        trust_remote_code=source.trust_remote_code,
    )  # fmt: skip
    shutil.rmtree(draft / "adapter")
    (draft / OF).write_text(json.dumps({"stage": told["name"], "adapter": _sha256(adapter)}) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    draft.rename(output)
    say(f"merged for the next stage: {output}")
    if quantization:
        again = (
            "which is not quantised"
            if quantization["stored"]
            else "which the next stage quantises again as it loads it"
        )
        say(f"merged into the {quantization['method']} base de-quantised, {again}")


def _is_merged(output: Path, adapter: Path) -> bool:
    """Whether `output` is what this adapter was merged into."""
    file = output / OF
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("adapter") == _sha256(adapter)


def _sha256(adapter: Path) -> str:
    from finetune.data.filehash import file_sha256

    return file_sha256(adapter / "adapter_model.safetensors")
