"""What must be the same in a run that resumes, or it would be another run under the same name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from finetune.data.chat import IGNORED
from finetune.data.items import Item, LabelledItems, flat
from finetune.data.pack import Pack
from finetune.data.store import ExampleStore
from finetune.recipe import TrainSection
from finetune.recipe_peft import PeftSection

BLOCK = 1 << 20  # values hashed at once
# How a step is computed or watched, not what it computes: a change gives the same run up to rounding.
FREE = frozenset({
    "micro_batch_size", "gradient_checkpointing", "activation_offloading", "torch_compile", "logging_steps", "save_steps",
    "save_total_limit", "auto_find_batch_size", "on_nonfinite", "max_skipped_steps", "load_best_model_at_end",
})  # fmt: skip


def facts_of(
    seed: int,
    stage: str,
    settings: Mapping[str, Any],
    base: Mapping[str, Any],
    dtype: str,
    adapter: PeftSection,
    train: TrainSection,
    examples: Sequence[Item],
    held_out: Sequence[Item],
    initial: Mapping[str, Any] | None,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Recipe keys and digests, flat: `train.learning_rate` to 0.0002.

    Args:
        settings: of the stage's own section.
        initial: LoRA weights at the start where the base was changed for them: another machine's decomposition may
            differ, and with it the base that a checkpoint belongs to.
        start: the adapter's weights that the run began with, where they were not fresh.
    """
    own = {f"{stage}.{key}": value for key, value in settings.items()}
    settings = {f"train.{key}": value for key, value in train.model_dump(mode="json").items() if key not in FREE}
    settings |= {f"{adapter.kind}.{key}": value for key, value in adapter.model_dump(mode="json").items()}
    settings |= {f"model.{key}": value for key, value in base.items()}
    looked_at = digest(held_out) if train.eval_steps else None
    if initial is not None:
        settings["initial LoRA weights"] = _tensors_digest(initial)
    if start is not None:
        settings["starting adapter"] = _tensors_digest(start)
    return {"seed": seed, "stage": stage, "model.dtype": dtype, **own, **settings,
            "training examples": digest(examples), "held-out examples": looked_at}  # fmt: skip


def digest(items: Sequence[Item]) -> str:
    """Number and sha256 of lengths, ids, trained tokens and marks, in order: where the rows lie does not matter."""
    examples = flat(items)
    if isinstance(examples, ExampleStore):
        arrays = [examples.lengths, examples.ids, examples.trained, examples.marks.reshape(-1)]
    else:
        lengths = [example.lengths if isinstance(example, Pack) else (len(example.ids),) for example in examples]
        labels = np.fromiter(chain.from_iterable(example.labels for example in examples), np.int64)
        arrays = [
            np.asarray([len(documents) for documents in lengths if len(documents) > 1], np.int64),
            np.fromiter(chain.from_iterable(lengths), np.int64),
            np.fromiter(chain.from_iterable(example.ids for example in examples), np.int32),
            labels != IGNORED,
            np.fromiter(chain.from_iterable(example.marks for example in examples), np.float32),
        ]
    whole = hashlib.sha256()
    for array in arrays:
        for start in range(0, len(array), BLOCK):
            whole.update(np.ascontiguousarray(array[start : start + BLOCK]).data)
            if isinstance(examples, ExampleStore):
                examples.let_go()
    if isinstance(items, LabelledItems):
        whole.update(str(items.max_length).encode())  # where their mismatched answers are cut off
    return f"{len(items)} with sha256 {whole.hexdigest()}"


def _tensors_digest(tensors: Mapping[str, Any]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].float().contiguous().numpy().tobytes())
    return f"sha256 {whole.hexdigest()}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """One line for each fact that is not the same: which, its value in the checkpoint, its value now."""
    for key in dict.fromkeys((*before, *now)):
        if before.get(key) != now.get(key):
            yield f"{key}: the checkpoint was made with {before.get(key)!r}, this run has {now.get(key)!r}"
