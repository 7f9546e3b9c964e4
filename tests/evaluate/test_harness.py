"""Scores of lm-eval: those that lm-eval's own wrapper gives of a merged copy of the model, and nothing left behind."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from finetune.errors import RecipeError
from finetune.evaluate.intervals import intervals
from finetune.model.reference import adapter_off
from finetune.recipe_harness import LmEvalSection
from tests.conftest import ROOT, byte_tokenizer, tiny_llama
from tests.equivalence.processes import torchrun

pytest.importorskip("lm_eval")

WORDS = ("red", "green", "blue", "amber")


def write_tasks(folder, answers: list[str]) -> None:
    """Two tasks of twelve questions, one of choices and one of short answers, and a group of the first with its double."""
    rows = [
        {
            "question": f"{WORDS[n % 4]} {n}?",
            "choices": [" yes", " no", " not at all"],
            "gold": n % 3,
            "answer": answers[n],
        }
        for n in range(len(answers))
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data), "dev": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "dev",
        "doc_to_text": "{{question}}",
    }
    choose = shared | {
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "{{choices}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    say = shared | {
        "task": "own_say",
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    group = {
        "group": "own_group",
        "task": ["own_choose", "own_choose_too"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
    }
    files = {
        "choose": choose | {"task": "own_choose"},
        "too": choose | {"task": "own_choose_too"},
        "say": say,
        "group": group,
    }
    for name, task in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


@pytest.fixture(scope="module")
def manager_of():
    """lm-eval's own tasks take seconds to find and are asked for once only here; those of a folder alone, at once."""
    from lm_eval.tasks import TaskManager

    return lambda folder: TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture
def own(tmp_path, monkeypatch, manager_of):
    """A function: the tasks of `write_tasks` with these answers, loaded, and their section."""
    from finetune.evaluate.harness_tasks import load_tasks

    def load(answers: list[str], **settings):
        write_tasks(tmp_path, answers)
        monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda include_path: manager_of(include_path))
        section = LmEvalSection(
            include_path=tmp_path, **{"tasks": ("own_choose", "own_say"), "batch_size": 5} | settings
        )
        return section, load_tasks(section)

    return load


def tuned_llama():
    """A random Llama under a LoRA that changes what it says."""
    from peft import LoraConfig, get_peft_model

    model = tiny_llama(len(byte_tokenizer()), seed=1)
    for parameter in model.parameters():
        parameter.data *= 3 if parameter.ndim > 1 else 1
    model.generation_config.pad_token_id = 257
    peft_model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return peft_model


def placement_of(dtype: str = "float32"):
    from accelerate import Accelerator

    from finetune.device import DEVICES, Placement

    return Placement(Accelerator(cpu=True), DEVICES["cpu"], dtype, "sdpa", "sdpa")


SILENT = SimpleNamespace(say=lambda text: None)


def scored(model, section, tasks, placement, who="tuned"):
    from finetune.evaluate.harness import harness_scores

    return harness_scores(model, byte_tokenizer(), tasks, section, placement, SILENT, who)


def by_lm_eval(model, section, tasks):
    """What lm-eval makes of a plain model of transformers in its own wrapper."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    wrapper = HFLM(pretrained=model.eval(), tokenizer=byte_tokenizer(), backend="causal", batch_size=3)
    return simple_evaluate(
        wrapper,
        tasks=list(section.tasks),
        task_manager=tasks.manager,
        num_fewshot=section.num_fewshot,
        limit=section.limit,
    )


def logger_of_lm_eval() -> tuple:
    logger = logging.getLogger("lm_eval")
    return logger.level, logger.propagate, list(logger.handlers)


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
def test_the_numbers_are_lm_evals_own(own, shots):
    """Adapter on: those of the merged copy. Adapter off: those of the base. Choices and short answers, with and without
    worked examples, right-padded and left-padded batches; every log-likelihood within 1e-4, every answer the same."""
    from finetune.evaluate.harness_model import wrapped
    from finetune.evaluate.harness_tasks import as_before, run

    model, placement = tuned_llama(), placement_of()
    merged = copy.deepcopy(model).merge_and_unload()
    plain = copy.deepcopy(model).unload()
    section, tasks = own(["?"] * 12, num_fewshot=shots)
    said = [sample["filtered_resps"][0] for sample in by_lm_eval(merged, section, tasks)["samples"]["own_say"]]
    assert len({*said}) > 1
    section, tasks = own([text if n % 3 else "?" for n, text in enumerate(said)], num_fewshot=shots)
    reference, of_base = by_lm_eval(merged, section, tasks), by_lm_eval(plain, section, tasks)
    tuned = scored(model, section, tasks, placement)
    with adapter_off(model):
        base = scored(model, section, tasks, placement, "base")
    for one, wanted in ((tuned, reference), (base, of_base)):
        results = wanted["results"]
        assert one.scores == {
            "lm_eval/own_choose/acc": results["own_choose"]["acc,none"],
            "lm_eval/own_choose/acc_norm": results["own_choose"]["acc_norm,none"],
            "lm_eval/own_say/exact_match": results["own_say"]["exact_match,none"],
        }
        assert one.stderr["lm_eval/own_choose/acc"] == results["own_choose"]["acc_stderr,none"]
        assert list(one.scores) == list(tasks.names)
    if not shots:
        assert tuned.scores["lm_eval/own_say/exact_match"] == pytest.approx(
            8 / 12
        )  # those of the twelve that are not "?"
    assert base.scores != tuned.scores
    with as_before(), wrapped(model, byte_tokenizer(), placement, 4) as asked:
        found = run(asked, tasks, section)
    for task in ("own_choose", "own_say"):
        for one, wanted in zip(found["samples"][task], reference["samples"][task], strict=True):
            if task == "own_say":
                assert one["filtered_resps"] == wanted["filtered_resps"]
            else:
                ours, theirs = ([part[0] for part in sample["filtered_resps"]] for sample in (one, wanted))
                assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_two_processes_are_one(own, tmp_path):
    """The same score of every question, with worked examples drawn at random; one of the two has them."""
    section, tasks = own(["?" if n % 2 else "x" for n in range(13)], num_fewshot=2)
    alone = scored(tuned_llama(), section, tasks, placement_of())
    said = torchrun([ROOT / "tests/evaluate/spread_harness.py", tmp_path])
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    assert lines == [[alone.scores, alone.rows]]


def test_intervals_are_of_the_questions(own):
    """Each score is the mean over its rows; base and tuned are paired; ends lie near those of lm-eval's standard error."""
    from finetune.evaluate.harness import paired_rows

    model, placement = tuned_llama(), placement_of()
    section, tasks = own(["?"] * 40, tasks=("own_group",))
    tuned = scored(model, section, tasks, placement)
    with adapter_off(model):
        base = scored(model, section, tasks, placement, "base")
    assert list(tuned.scores) == ["lm_eval/own_group/acc"]
    assert tuned.about["tasks"]["own_group"]["questions"] == 80
    rows = paired_rows(base, tuned)
    assert {name: len(its.tuned) for name, its in rows.items()} == {"lm_eval/own_group": 80}
    assert np.mean([row["acc"] for row in rows["lm_eval/own_group"].tuned]) == tuned.scores["lm_eval/own_group/acc"]
    found = intervals(rows, tuned.scores)
    assert [*found.difference] == ["lm_eval/own_group/acc"] and found.groups == {"lm_eval/own_group": 80}
    value, error = tuned.scores["lm_eval/own_group/acc"], tuned.stderr["lm_eval/own_group/acc"]
    assert found.tuned["lm_eval/own_group/acc"] == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.03)


def test_in_bfloat16_as_the_run_computes(own):
    """One question at a time, the log-likelihood is to the bit what autocast's logits give in a float32 log-softmax."""
    from finetune.evaluate.generate import adapter_in
    from finetune.evaluate.harness_model import wrapped
    from finetune.evaluate.harness_tasks import as_before, run

    model, placement, tokenizer = tuned_llama(), placement_of("bfloat16"), byte_tokenizer()
    model.base_model.model.bfloat16()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if "lora_" in name else parameter.data
    section, tasks = own(["?"] * 12, tasks=("own_choose",), limit=3)
    with as_before(), wrapped(model, tokenizer, placement, 1) as asked:
        found = run(asked, tasks, section)
    for sample in found["samples"]["own_choose"]:
        for (question, choice), given in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            before, after = tokenizer(question)["input_ids"], tokenizer(choice)["input_ids"]
            ids = torch.tensor([before + after])[:, :-1]
            with torch.inference_mode(), adapter_in(model, torch.bfloat16), placement.autocast():
                logits = model(input_ids=ids).logits
            logprobs = logits.float().log_softmax(-1)[0, -len(after) :]
            assert given[0] == logprobs[range(len(after)), after].sum().item()


def test_nothing_of_the_process_or_the_model_is_changed(own):
    """Random states, environment, threads, loggers, and the model: its mode, weights, dtypes and names."""
    model, placement = tuned_llama(), placement_of()
    model.train()
    section, tasks = own(["?"] * 12)
    before = {name: (id(p), p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
    random.seed(7), np.random.seed(8), torch.manual_seed(9)
    state = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    outside = (dict(os.environ), torch.get_num_threads(), logger_of_lm_eval())
    scored(model, section, tasks, placement)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state
    assert (dict(os.environ), torch.get_num_threads(), logger_of_lm_eval()) == outside
    after = dict(model.named_parameters())
    assert list(after) == list(before) and model.training
    for name, (number, dtype, data) in before.items():
        assert (id(after[name]), after[name].dtype) == (number, dtype) and torch.equal(after[name], data)


def test_prompts_that_do_not_fit_are_said(own):
    """lm-eval cuts them at their beginning; its warning comes into the log, once, with how often it happened."""
    from finetune.evaluate.harness import harness_scores

    model = tuned_llama()
    model.get_base_model().config.max_position_embeddings = 16
    section, tasks = own(["?"] * 12, tasks=("own_choose",), num_fewshot=2)
    lines: list[str] = []
    log = SimpleNamespace(say=lines.append)
    harness_scores(model, byte_tokenizer(), tasks, section, placement_of(), log, "tuned")
    assert lines[0] == "lm-eval: own_choose: tuned" and len(lines) == 2
    assert "lost their beginning" in lines[1] and "maximum length (16)" in lines[1]


@pytest.mark.parametrize(
    "on_the_tied",
    [{"target_modules": ["lm_head", "q_proj"]}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1, 2]}],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_adapters_on_tied_embeddings(own, on_the_tied):
    """lm-eval's wrapper fails on such a peft model itself, as it ties the weights anew. Here log-likelihoods are those of
    the model's own logits."""
    from lm_eval.models.huggingface import HFLM
    from peft import LoraConfig, get_peft_model

    from finetune.evaluate.harness_model import wrapped
    from finetune.evaluate.harness_tasks import as_before, run

    tokenizer = byte_tokenizer()
    settings = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False} | on_the_tied
    model = get_peft_model(tiny_llama(len(tokenizer)), LoraConfig(**settings)).eval()
    with pytest.raises((KeyError, AttributeError)):
        HFLM(pretrained=model, tokenizer=tokenizer, backend="causal")
    section, tasks = own(["?"] * 12, tasks=("own_choose",), limit=3)
    with as_before(), wrapped(model, tokenizer, placement_of(), 4) as asked:
        found = run(asked, tasks, section)
    assert_log_likelihoods(model, tokenizer, found["samples"]["own_choose"])


def assert_log_likelihoods(model, tokenizer, samples) -> None:
    """Of each choice that of its ids after the question's, asked alone."""
    for sample in samples:
        for (question, choice), given in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            before, after = tokenizer(question)["input_ids"], tokenizer(choice)["input_ids"]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([before + after])).logits
            logprobs = logits.log_softmax(-1)[0, -len(after) - 1 : -1]
            assert given[0] == pytest.approx(logprobs[range(len(after)), after].sum().item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_virtual_tokens_stand_before_every_question(own, kind):
    """Log-likelihoods with virtual tokens are those of the same ids asked one by one through the peft model; short answers
    are those of the run's own generation."""
    import peft

    from finetune.evaluate.generate import generate_batch
    from finetune.evaluate.harness_model import wrapped
    from finetune.evaluate.harness_tasks import as_before, run

    config = {"prompt_tuning": peft.PromptTuningConfig, "prefix_tuning": peft.PrefixTuningConfig}[kind]
    base = tiny_llama(len(byte_tokenizer()), seed=2)
    base.generation_config.pad_token_id = 257
    model = peft.get_peft_model(base, config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    tokenizer, placement = byte_tokenizer(), placement_of()
    section, tasks = own(["?"] * 12, limit=4)
    with as_before(), wrapped(model, tokenizer, placement, 3) as asked:
        found = run(asked, tasks, section)
    assert_log_likelihoods(model, tokenizer, found["samples"]["own_choose"])
    asked_for = [sample["arguments"][0][0] for sample in found["samples"]["own_say"]]
    prompts = [tokenizer(text)["input_ids"] for text in asked_for]
    with torch.inference_mode():
        said = generate_batch(model, tokenizer, prompts, 5, placement)
    for sample, answer in zip(found["samples"]["own_say"], said, strict=True):
        assert sample["filtered_resps"][0].split("\n")[0].strip() == answer.text.split("\n")[0].strip()


@pytest.mark.slow
def test_what_is_wrong_comes_up_before_training(own, tmp_path):
    """An unknown id with the nearest one, a data set that is not there, too many worked examples, no score to report."""
    section, _ = own(["?"] * 12)
    with pytest.raises(
        RecipeError, match=r"no task 'own_chose'; did you mean 'own_choose'\?; read from include_path: own_"
    ):
        own(["?"] * 12, tasks=("own_chose",))
    with pytest.raises(
        RecipeError, match=r"own_choose: asking one question failed: .*; evaluate\.lm_eval\.num_fewshot is 13"
    ):
        own(["?"] * 12, num_fewshot=13)
    broken = yaml.safe_load((tmp_path / "choose.yaml").read_text()) | {
        "task": "own_gone",
        "dataset_path": "nobody/nothing",
    }
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump({k: v for k, v in broken.items() if k != "dataset_kwargs"}))
    with pytest.raises(
        RecipeError, match=r"own_gone can't be loaded \(data set nobody/nothing\): .*; offline, its data must"
    ):
        own(["?"] * 12, tasks=("own_gone",))
    worse = yaml.safe_load((tmp_path / "choose.yaml").read_text()) | {
        "task": "own_worse",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": False}],
    }
    (tmp_path / "worse.yaml").write_text(yaml.safe_dump(worse))
    with pytest.raises(RecipeError, match="own_worse: none of its scores is one of which higher is better"):
        own(["?"] * 12, tasks=("own_worse",))
    with pytest.raises(RecipeError, match="no such folder"):
        from finetune.evaluate.harness_tasks import load_tasks

        load_tasks(section.model_copy(update={"include_path": tmp_path / "nowhere"}))
