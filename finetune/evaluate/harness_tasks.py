"""The tasks that lm-eval is to ask: found, their data loaded and each tried once, all before anything is trained."""

from __future__ import annotations

import importlib.util
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.device import quiet_libraries
from finetune.device.environment import unchanged_environment
from finetune.errors import RecipeError, did_you_mean, first_line
from finetune.evaluate.harness_results import scores_of
from finetune.recipe_evaluate import LM_EVAL
from finetune.recipe_harness import LmEvalSection

KEY = "evaluate.lm_eval"
# A task's scores are means of its questions' scores almost always, and their standard error is a formula. Of the others
# lm-eval finds it by this many draws in a pool of processes, which a process with a model in it is no place for.
DRAWS = 100_000


@dataclass(frozen=True)
class HarnessTasks:
    """What lm-eval has loaded.

    Attributes:
        manager: lm-eval's TaskManager.
        loaded: its Tasks and Groups.
        reported: what scores are given of, by its id: the tasks that it consists of.
        names: of the scores that come of it, as far as one question of each task tells.
        draws: lm-eval's bootstrap_iters.
    """

    manager: Any
    loaded: tuple[Any, ...]
    reported: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...] = ()
    draws: int = DRAWS


def load_tasks(section: LmEvalSection) -> HarnessTasks:
    """The section's tasks, data and all; each is asked one question of by lm-eval's own stand-in for a model.

    So a data set that is not to be had, a package that a metric needs, and more worked examples than there are come up
    now, not after the training. What is downloaded lies in the hub's cache, where a later run finds it offline.

    Raises:
        RecipeError: lm-eval or what a task needs is not there, unknown ids with the nearest spelling.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError(f"{KEY}: needs lm-eval, which is not installed (pip install 'finetune[lm-eval]')")
    if section.include_path is not None and not section.include_path.is_dir():
        raise RecipeError(f"{KEY}.include_path: no such folder: {section.include_path}")
    quiet_libraries()
    with as_before():
        try:
            from lm_eval.tasks import TaskManager

            include = None if section.include_path is None else str(section.include_path)
            manager = TaskManager(include_path=include)
        except ImportError as error:
            raise RecipeError(
                f"{KEY}: lm-eval is there but does not work: {first_line(error)} (pip install 'finetune[lm-eval]')"
            ) from None
        unknown = [name for name in section.tasks if name not in manager.task_index]
        if unknown:
            raise RecipeError([_unknown(name, manager, section) for name in unknown])
        return _tried(section, _loaded(section, manager))


def run(asked: Any, tasks: HarnessTasks, section: LmEvalSection) -> Any:
    """lm-eval's results, as `simple_evaluate` gives them; to be called within `as_before`.

    Args:
        asked: a model of lm-eval's.
    """
    from lm_eval import simple_evaluate

    return simple_evaluate(
        model=asked,
        tasks=list(tasks.loaded),
        task_manager=tasks.manager,
        num_fewshot=section.num_fewshot,
        limit=section.limit,
        batch_size=section.batch_size,
        bootstrap_iters=tasks.draws,
        apply_chat_template=section.apply_chat_template,
        fewshot_as_multiturn=section.apply_chat_template,
        log_samples=True,
    )


@contextmanager
def as_before() -> Iterator[list[str]]:
    """What lm-eval changes in this process is put back: random states, environment; what it warns of is yielded, not printed.

    lm-eval seeds Python, numpy and torch for its draws of worked examples, and importing it sets a variable of the hub's.
    """
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # torch.manual_seed seeds the device too.
    kind, devices = ("cuda", []) if device is None else (device.type, [torch.accelerator.current_device_index()])
    seeds = torch.random.fork_rng(devices=devices, device_type=kind)
    with warnings.catch_warnings(), seeds, unchanged_environment(), _heard() as said:
        warnings.simplefilter("ignore")
        try:
            yield said
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What lm-eval's loggers warn of inside."""
    said: list[str] = []
    ear = logging.Handler()
    ear.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lm_eval")
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _unknown(name: str, manager: Any, section: LmEvalSection) -> str:
    own = [key for key, entry in manager.task_index.items() if _is_own(entry, section)]
    # lm-eval passes over files that it can't read without a word: those that it did read are shown.
    read = f"; read from include_path: {', '.join(sorted(own)) or 'nothing'}" if section.include_path else ""
    return f"{KEY}.tasks: lm-eval has no task {name!r}{did_you_mean(name, manager.all_tasks)}{read}"


def _is_own(entry: Any, section: LmEvalSection) -> bool:
    if section.include_path is None or entry.yaml_path is None:
        return False
    return entry.yaml_path.resolve().is_relative_to(section.include_path.resolve())


def _loaded(section: LmEvalSection, manager: Any) -> HarnessTasks:
    loaded: list[Any] = []
    reported: dict[str, tuple[str, ...]] = {}
    problems = []
    for name in section.tasks:
        try:
            found = manager.load([name])
        except Exception as error:  # a task is YAML and Python of others: it may raise anything
            problems.append(_not_loaded(name, manager, error))
            continue
        group = found["groups"].get(name)
        loaded += list(found["tasks"].values()) if group is None else [group]
        problems += _not_asked(name, found["tasks"])
        if group is not None and group.has_aggregation:
            reported[name] = tuple(found["tasks"])
        else:
            reported |= {task: (task,) for task in found["tasks"]}
    if problems:
        raise RecipeError(problems)
    try:
        tasks = manager.load(loaded)["tasks"]
    except ValueError as error:  # a task that two groups have
        raise RecipeError(f"{KEY}.tasks: {first_line(error)}") from None
    from lm_eval.api.metrics import mean

    means = all(made is mean for task in tasks.values() for made in task.aggregation().values())
    return HarnessTasks(manager, tuple(loaded), reported, draws=DRAWS if means else 0)


def _not_asked(name: str, tasks: Mapping[str, Any]) -> list[str]:
    reasons = {"UNSAFE_CODE": "runs code that the model wrote", "MULTIMODAL": "asks about images or sound"}
    return [
        f"{KEY}.tasks: {name}: {task} {why}"
        for task, its in tasks.items()
        for flag, why in reasons.items()
        if getattr(its, flag, False)
    ]


def _not_loaded(name: str, manager: Any, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{KEY}.tasks: {name}: needs a package that is not there: {first_line(error)}"
    config = manager.task_index[name].cfg or {}
    data = f" (data set {config['dataset_path']})" if config.get("dataset_path") else ""
    return (
        f"{KEY}.tasks: {name} can't be loaded{data}: {type(error).__name__}: {first_line(error)}; offline, its data must be "
        "in the hub's cache or named by a task of your own: docs/evaluation_harness.md"
    )


def _tried(section: LmEvalSection, tasks: HarnessTasks) -> HarnessTasks:
    """Each task asked for one document; raises RecipeError where that fails or nothing comes of it."""
    # The stand-in has no chat template: the questions are put plainly here.
    one = section.model_copy(update={"apply_chat_template": False, "limit": 1})
    try:
        found = _stand_in(tasks, one)
    except Exception:  # as above; which of them it was is not said: each alone
        raise RecipeError(_failing(tasks, one)) from None
    if found is None:  # lm-eval gives its results to the first process of a machine only
        return tasks
    scores = {name: scores_of(found, name) for name in tasks.reported}
    names = tuple(f"{LM_EVAL}/{name}/{score}" for name, its in scores.items() for score in its)
    without = [name for name, its in scores.items() if not its]
    if without:
        raise RecipeError(
            [f"{KEY}.tasks: {name}: none of its scores is one of which higher is better" for name in without]
        )
    return replace(tasks, names=names)


def _stand_in(tasks: HarnessTasks, section: LmEvalSection) -> Any:
    """What lm-eval's own stand-in for a model, which answers at random, comes to."""
    from lm_eval.models.dummy import DummyLM

    model = DummyLM()
    model.__dict__["tokenizer"] = None  # it would ask the hub for one, again and again where there is no network
    return run(model, tasks, section)


def _failing(tasks: HarnessTasks, section: LmEvalSection) -> list[str]:
    shots = "" if section.num_fewshot is None else f"; {KEY}.num_fewshot is {section.num_fewshot}"
    problems = []
    for one in tasks.loaded:
        try:
            _stand_in(replace(tasks, loaded=(one,)), section)
        except Exception as error:  # as above
            name = getattr(one, "task_name", None) or one.name
            why = f"{type(error).__name__}: {first_line(error)}"
            problems.append(f"{KEY}.tasks: {name}: asking one question failed: {why}{shots}")
    return problems or [f"{KEY}.tasks: asking one question of each failed, though not of each alone"]
