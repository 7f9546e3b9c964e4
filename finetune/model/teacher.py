"""The teacher of a distillation: frozen, in its own dtype, and of the student's vocabulary."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.device import Placement
from finetune.errors import RecipeError, first_line
from finetune.model.head import TrainedPositions
from finetune.recipe import ModelSection
from finetune.recipe_stages import TeacherSection

if TYPE_CHECKING:
    from finetune.model.load import Base

KEY = "distill.teacher"
# Two tokenizers with the same entries may still cut text at other places.
PROBE = "The 3 wells' output fell 12.5% -- 收益率为-7.25%。\n\n\tif x_1 >= 1e-3: print('ÄÖü')  # NaN"


@dataclass(frozen=True)
class Teacher:
    """`model` is on the run's device in eval mode; `identity` is what the manifest and a checkpoint say of it."""

    model: TrainedPositions
    identity: dict[str, Any]

    def logits(self, inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        """(N, W) at the trained positions, computed in the teacher's dtype without gradient.

        Args:
            inputs: as the student takes them.
        """
        device = inputs[0].device.type  # type: ignore[union-attr]
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return self.model(*inputs)


def load_teacher(section: TeacherSection, tokenizer: Any, vocab_size: int, placement: Placement) -> Teacher:
    """The teacher, its adapter merged into it.

    Every process holds it whole: it is not trained, so no engine wraps it or spreads it.

    Args:
        tokenizer, vocab_size: the student's; a vocabulary may be padded to more logits than its tokenizer has tokens.

    Raises:
        RecipeError: it can't be loaded, or is of another vocabulary, with both sides named.
    """
    from finetune.model.load import load_base

    model = ModelSection(**section.model_dump(exclude={"adapter_name_or_path", "dtype"}))
    own = placement if section.dtype == "auto" else replace(placement, dtype=section.dtype)
    try:
        base = load_base(model, own, Path())
    except RecipeError as error:
        raise RecipeError([problem.replace("model.", f"{KEY}.", 1) for problem in error.problems]) from None
    check_vocabulary(tokenizer, vocab_size, base.tokenizer, base.model.config.get_text_config().vocab_size)
    network = base.model
    identity = base.identity | {"dtype": own.dtype}
    if section.adapter_name_or_path:
        network, adapter = _adapted(base, Path(section.adapter_name_or_path))
        identity["adapter"] = adapter
    network.requires_grad_(False)
    return Teacher(TrainedPositions(network.to(placement.accelerator.device)).eval(), identity)


def check_vocabulary(student: Any, student_size: int, teacher: Any, teacher_size: int) -> None:
    """Raises RecipeError unless every text has the same ids in both tokenizers and both models have logits for them.

    A model may have more logits than its tokenizer has tokens (a padded vocabulary): those beyond the smaller width
    are left out of the divergence, see stages/divergence.py.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    sides = f"the student's tokenizer has {len(ours)} tokens, the teacher's {len(theirs)}"
    problems = []
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if differing:
        token = differing[0]
        problems.append(
            f"{KEY}: another vocabulary: {sides}; {len(differing)} tokens differ, as {token!r}: id {ours.get(token)} of "
            f"the student, {theirs.get(token)} of the teacher"
        )
    else:
        a, b = (tokenizer.encode(PROBE, add_special_tokens=False) for tokenizer in (student, teacher))
        if a != b:
            place = next(i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1])
            problems.append(
                f"{KEY}: the same vocabulary, but other ids for the same text: {PROBE!r} becomes {a[place : place + 4]} "
                f"with the student's tokenizer and {b[place : place + 4]} with the teacher's, from token {place} on"
            )
    needed = max(ours.values()) + 1
    problems += [
        f"{KEY}: {who} gives logits for {size} ids, its tokenizer has ids up to {needed - 1}"
        for who, size in (("the student", student_size), ("the teacher", teacher_size))
        if size < needed and not differing
    ]
    if problems:
        raise RecipeError(problems)


def _adapted(base: Base, folder: Path) -> tuple[Any, dict[str, str]]:
    """The base with the PEFT adapter in `folder` merged into it, and the sha256 of that adapter's weights."""
    from peft import PeftConfig, PeftModel

    from finetune.data.filehash import file_sha256
    from finetune.export.adapterfile import residual_init
    from finetune.model.folder import check_folder
    from finetune.model.save import INITIAL
    from finetune.model.targets import is_tied_model
    from finetune.model.tokens import rows_needed

    key, weights = f"{KEY}.adapter_name_or_path", folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise RecipeError(f"{key}: no adapter_model.safetensors in {folder}")
    check_folder(key, str(folder))
    try:
        settings = PeftConfig.from_pretrained(str(folder))
        if settings.is_prompt_learning:
            raise RecipeError(f"{key}: {folder}: {settings.peft_type.value} is never merged, as a teacher's adapter is")
        if residual_init(getattr(settings, "init_lora_weights", True)) or (folder / INITIAL).exists():
            raise RecipeError(f"{key}: {folder} belongs to a base that was changed for it; name its run's merged model")
        rows = base.model.get_input_embeddings().weight.shape[0]
        if rows_needed(getattr(settings, "trainable_token_indices", None)) > rows:
            raise RecipeError(f"{key}: {folder} has rows for tokens that its base lacks; name its run's merged model")
        with warnings.catch_warnings():  # weights that the file lacks would be left at random
            warnings.filterwarnings("error", message="Found missing adapter keys")
            tied = is_tied_model(base.model)
            adapted = PeftModel.from_pretrained(base.model, folder, use_safetensors=True)
            ends = (adapted.get_base_model().get_input_embeddings(), adapted.get_base_model().get_output_embeddings())
            if tied and any(hasattr(end, "lora_A") for end in ends):
                raise RecipeError(f"{key}: {folder} has LoRA on an embedding and output layer that are one tensor, which "
                                  "peft's own merge would change twice; name its run's merged model")  # fmt: skip
            merged = adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, TypeError, Warning) as error:
        raise RecipeError(f"{key}: {folder}: {first_line(error)}") from None
    return merged, {"name_or_path": str(folder), "sha256": file_sha256(weights)}
