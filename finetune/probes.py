"""What the model at hand is asked before training: whether packed documents are apart, and whether pairs may share prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.log import Log
    from finetune.ready import ReadyPart


def check_packing(recipes: Sequence[Recipe], model: Any, placement: Placement, log: Log) -> None:
    """The probe of packed rows, once, where some stage has them and wants its documents apart."""
    from finetune.model.isolation import check_isolation

    joining = [own.data for own in recipes if own.data.joined_by]
    if any(data.allow_cross_doc for data in joining):
        log.say("packing: documents of one row may see each other (data.allow_cross_doc)")
    keys = dict.fromkeys(key for data in joining if not data.allow_cross_doc for key in data.joined_by)
    if keys:
        check_isolation(model, placement.torch_dtype, placement.accelerator.device, list(keys))


def share_prefixes(parts: Sequence[ReadyPart], model: Any, placement: Placement, log: Log) -> None:
    """Pairs are computed with what they share once, in all processes or in none, where that is wanted and the same."""
    import torch

    from finetune.stages.pairs import PairStage

    paired = [part.stage for part in parts if isinstance(part.stage, PairStage)]
    stages = [stage for stage in paired if getattr(stage.settings, "prefix_sharing", False)]
    if not stages:
        return
    problem = _sharing_problem(parts, model, placement)
    found = torch.tensor(int(problem is not None), device=placement.accelerator.device)
    if int(placement.accelerator.reduce(found, reduction="sum")) == 0:
        log.say("prefix sharing: what both answers to a prompt begin with is computed once")
        for stage in stages:
            stage.prefix_sharing = True
    else:
        log.say(f"prefix sharing: off, each answer is computed with its prompt: {problem or 'another process has to'}")


def _sharing_problem(parts: Sequence[ReadyPart], model: Any, placement: Placement) -> str | None:
    """Why pairs can't be computed with what they share once, if they can't."""
    from finetune import engine
    from finetune.model.prefix_probe import sharing_problem
    from finetune.model.virtual import is_prompted

    if is_prompted(model):
        return "virtual tokens stand before each answer"
    if any(part.recipe.train.neftune_noise_alpha for part in parts):
        return "train.neftune_noise_alpha goes by an answer's length"
    if engine.shards(placement):
        return f"not with {placement.engine}: the model would have to be asked before it is spread over the processes"
    problem = sharing_problem(model, placement.torch_dtype, placement.accelerator.device)
    return problem and f"{type(model.get_base_model()).__name__} {problem}"
