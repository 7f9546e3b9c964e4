"""What the models of an evaluation are asked beside the recipe's own held-out rows, and the release that is asked too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finetune.chain import check_leaks
from finetune.data.few import evenly, few
from finetune.data.prepare import Prepared, prepare
from finetune.device import local_rank
from finetune.errors import RecipeError
from finetune.evaluate.gate import check_gate
from finetune.evaluate.metrics import check_metric
from finetune.evaluate.previous import Previous, find_previous
from finetune.evaluate.results import FINISHED, check_references
from finetune.inputs import known_scores, part_name
from finetune.recipe import Recipe
from finetune.recipe_data import DataSection, ScreenSection
from finetune.recipe_evaluate import LIKELIHOOD, LM_EVAL, SuiteSection
from finetune.recipe_stages import STAGE_SECTIONS, SftSection

if TYPE_CHECKING:
    from finetune.evaluate.harness_tasks import HarnessTasks

# A suite is not trained on: its rows may be alike. Whether they are among what is trained on is looked at apart.
UNSCREENED = ScreenSection(exact_duplicates="off", train_eval_overlap="off", personal_data="off", secrets="off")  # type: ignore[call-arg]


@dataclass(frozen=True)
class Beside:
    """Suites by name, the release before, and lm-eval's tasks; what the recipe does not ask for is empty or None."""

    suites: dict[str, Prepared]
    previous: Previous | None
    harness: HarnessTasks | None


def load_beside(recipe: Recipe, data: Sequence[Prepared], rows: int | None = None) -> Beside:
    """All of it, checked before anything is trained.

    Args:
        data, rows: as `load_suites` takes them.

    Raises:
        RecipeError, DataError: as `load_suites`, `find_previous` and lm-eval's `load_tasks`.
    """
    suites = load_suites(recipe, data, rows)
    previous = find_previous(recipe.evaluate.previous) if recipe.evaluate.previous else None
    harness = None
    if recipe.evaluate.lm_eval is not None:
        from finetune.evaluate.harness_tasks import load_tasks

        harness = load_tasks(recipe.evaluate.lm_eval)
        if local_rank() == 0:  # the others do not know the tasks' names
            check_gate(recipe.gate, harness.names, _others(recipe, LM_EVAL))
    return Beside(suites, previous, harness)


def suite_recipe(recipe: Recipe, name: str) -> Recipe:
    """What a run would be that held out the suite's rows: stage sft on its data."""
    suite = recipe.evaluate.suites[name]
    data = DataSection(
        template=suite.template, format=None if suite.template else "auto", train=suite.data, eval=suite.data,
        max_length=suite.max_length, screen=UNSCREENED,
    )  # type: ignore[call-arg]  # fmt: skip
    evaluate = recipe.evaluate.model_copy(update={"max_new_tokens": suite.max_new_tokens, "rows": suite.rows})
    others = dict.fromkeys(STAGE_SECTIONS) | {"stages": (), "mixture": ()}
    own = {"name": name, "stage": "sft", "data": data, "evaluate": evaluate, "sft": SftSection()}
    return recipe.model_copy(update=others | own)


def load_suites(recipe: Recipe, data: Sequence[Prepared], rows: int | None = None) -> dict[str, Prepared]:
    """The rows of every suite by its name, in `evaluate`; checked as held-out rows are.

    Args:
        data: what is trained on, of each stage or part.
        rows: each is cut to `few` of them, once all were checked.

    Raises:
        RecipeError, DataError: of all suites: bad rows, references that their metric can't read, rows that are trained
            on, scores in the gate that there are none of.
    """
    found: dict[str, Prepared] = {}
    problems: list[str] = []
    kind: type[RecipeError] = RecipeError
    stages = recipe.stages or recipe.mixture or (recipe,)
    taken = {part_name(recipe, part): "part of the mixture" for part in recipe.mixture}
    taken |= {task: "task of the data template" for its in data for task in its.metrics if task}
    problems += [
        f"evaluate.suites.{name}: a {taken[name]} has this name, and so would their scores; take another"
        for name in recipe.evaluate.suites
        if name in taken
    ]
    for name, suite in recipe.evaluate.suites.items():
        own = suite_recipe(recipe, name)
        try:
            its = prepare(own.data, recipe.seed)
            for metric in its.metrics.values():
                check_metric(metric, str(suite.template or ""))
            its = replace(its, evaluate=its.evaluate.pick(evenly(len(its.evaluate), suite.rows)))
            check_gate(recipe.gate, suite_scores(name, suite, its), _others(recipe, name))
            if suite.answers:
                check_references(its)
            checked = own.model_copy(update={"data": own.data.model_copy(update={"screen": recipe.data.screen})})
            check_leaks([*stages, checked], [*data, its])
            found[name] = its if rows is None else few(its, rows)
        except RecipeError as error:
            problems += [f"evaluate.suites.{name}: {problem}" for problem in error.problems]
            kind = type(error)
    if problems:
        raise kind(problems)
    return found


def suite_scores(name: str, suite: SuiteSection, data: Prepared) -> list[str]:
    """Names of all its scores."""
    names = [*(LIKELIHOOD if suite.likelihood else ()), *((*known_scores(data), FINISHED) if suite.answers else ())]
    return [f"{name}/{score}" for score in names]


def _others(recipe: Recipe, name: str) -> set[str]:
    """Beginnings of the gate's names but this one."""
    given: Mapping[str, float] = recipe.gate.min | recipe.gate.max_drop | recipe.gate.max_drop_previous
    return {score.partition("/")[0] for score in given} - {name}
