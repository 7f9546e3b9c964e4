"""GRPO: its arithmetic by hand, answers drawn the same however they fall on batches, splits, resuming, learning."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
import yaml

from finetune.data.chat import ChatEncoder, Example
from finetune.data.template import Metric
from finetune.errors import RecipeError
from finetune.evaluate.generate import Answer, generate_batch
from finetune.evaluate.sample import Gumbel, Sampling, sample_answers
from finetune.inputs import load_data
from finetune.model.head import TrainedPositions
from finetune.recipefile import load_recipe
from finetune.run import run
from finetune.stages import grpo
from finetune.stages.group import advantages, kl_to_reference, policy_loss
from finetune.stages.grpo import Grpo
from finetune.stages.rollout import Prompt, Rollout
from finetune.stop import Preempted
from tests.conftest import byte_tokenizer, tiny_llama, write_tiny_recipe
from tests.equivalence.test_batches import assert_same_run
from tests.equivalence.test_resume import assert_same_bits, stir

SMALL = (
    "stage=grpo", "train.global_batch_size=8", "train.max_steps=3", "grpo.rewards={field_match: 1.0, finished: 0.5}",
    "grpo.num_generations=4", "grpo.max_completion_length=12", "evaluate.rows=1", "evaluate.max_new_tokens=2",
    "export.parity_rows=1",
)  # fmt: skip


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_advantages_by_hand():
    """Two prompts, four answers each, rewards (1, 0, 0, 1) and (1, 1, 1, 1): means 1/2 and 1.

    Sample variance of the first group: 4 (1/2)^2 / 3 = 1/3, so its advantages are +-(1/2) / (sqrt(1/3) + 1e-4); the
    second teaches nothing. Of all eight: mean 3/4, squares 6/16 + 18/16 = 3/2, variance 3/14.
    """
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    for scale, divisor in (("group", sqrt(1 / 3) + 1e-4), ("batch", sqrt(3 / 14) + 1e-4), ("none", 1.0)):
        values, std = advantages(rewards, scale)
        up = 0.5 / divisor
        assert values.flatten().tolist() == pytest.approx([up, -up, -up, up, 0, 0, 0, 0], abs=1e-12)
        assert std.tolist() == pytest.approx([sqrt(1 / 3), 0])


def test_policy_loss_by_hand():
    """epsilon 0.2, epsilon_high 0.4; ratios 2, 2, 1/2, 1/2 with advantages 1, -1, 1, -1.

    min(2, 1.4) = 1.4 (clipped high); min(-2, -1.4) = -2; min(1/2, 0.8) = 1/2; min(-1/2, -0.8) = -0.8 (clipped low).
    A clipped token has no gradient; the others have - ratio x advantage.
    """
    logps = torch.tensor([log(2), log(2), -log(2), -log(2)], requires_grad=True)
    found = policy_loss(logps, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2, 0.4)
    found.loss.sum().backward()
    assert found.loss.tolist() == pytest.approx([-1.4, 2.0, -0.5, 0.8])
    assert logps.grad.tolist() == pytest.approx([0.0, 2.0, -0.5, 0.0])
    assert (found.high.tolist(), found.low.tolist()) == ([True, False, False, False], [False, False, False, True])


def test_kl_by_hand():
    """Reference 1/4 where the policy has 1/2: r = 1/2, 1/2 - ln 1/2 - 1; the same policy: 0.

    Times the ratio its gradient is log(policy / reference), that of the KL itself; alone it is 1 - r.
    """
    logps = torch.tensor([log(1 / 2), log(1 / 3)], requires_grad=True)
    kl = kl_to_reference(logps, torch.tensor([log(1 / 4), log(1 / 3)]))
    assert kl.tolist() == pytest.approx([1 / 2 + log(2) - 1, 0], abs=1e-7)
    (alone,) = torch.autograd.grad(kl.sum(), logps, retain_graph=True)
    assert alone.tolist() == pytest.approx([1 / 2, 0], abs=1e-6)
    (exact,) = torch.autograd.grad((kl * (logps - logps.detach()).exp()).sum(), logps)
    assert exact.tolist() == pytest.approx([log(2), 0], abs=1e-6)


def test_noise_draws_from_the_distribution():
    """20,000 draws from (1/2, 1/3, 1/6): shares within 4 standard errors; rows of one seed are the same row."""
    scores = torch.tensor([1 / 2, 1 / 3, 1 / 6]).log()
    rows = 20_000
    drawn = Gumbel(range(rows), torch.device("cpu"))(scores.expand(rows, 3), range(rows)).argmax(-1)
    for token, probability in enumerate((1 / 2, 1 / 3, 1 / 6)):
        error = sqrt(probability * (1 - probability) / rows)
        assert float((drawn == token).float().mean()) == pytest.approx(probability, abs=4 * error)
    one, other = (Gumbel([7], torch.device("cpu"))(scores[None], [0]) for _ in range(2))
    assert torch.equal(one, other)


@pytest.fixture(scope="module")
def placed(tiny_base, tiny_data, tmp_path_factory):
    """(a placement, a peft model with some adapter)."""
    from peft import LoraConfig, get_peft_model

    from finetune import device

    recipe = load_recipe(write_tiny_recipe(tmp_path_factory.mktemp("placed"), tiny_base, tiny_data))
    model = tiny_llama(258)
    model.get_input_embeddings().weight.data *= 4
    model.generation_config.eos_token_id = 257
    torch.manual_seed(2)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return device.start(recipe), peft_model


PROMPTS = [[256, 65, 66], [256, 70], [256, 65, 66], [256, 80, 81, 82, 83]]


def test_answers_do_not_depend_on_the_batches(placed):
    """One by one, three at a time, all at once: the same ids; two answers to one prompt differ; another seed, others."""
    placement, model = placed
    model.train()

    def drawn(seed: int, batch_size: int, **other) -> list[tuple[int, ...]]:
        sampling = Sampling(
            **{"max_new_tokens": 9, "temperature": 1.0, "top_p": 1.0, "top_k": 0} | other, batch_size=batch_size
        )
        return [item.ids for item in sample_answers(model, byte_tokenizer(), PROMPTS, seed, sampling, placement)]

    one = drawn(1, 1)
    assert one == drawn(1, 3) == drawn(1, 8)
    assert one[0] != one[2] and drawn(2, 8) != one
    assert model.training and all(len(ids) == 9 or ids[-1] == 257 for ids in one)
    greedy = generate_batch(model.eval(), byte_tokenizer(), PROMPTS, 9, placement)
    assert greedy == sample_answers(model, byte_tokenizer(), PROMPTS, None, Sampling(9, 1.0, 1.0, 0, 3), placement)
    assert drawn(1, 8, top_k=1) == drawn(1, 8, top_p=1e-6) == [item.ids for item in greedy]


@pytest.mark.slow  # its cache's start and end take a second each
def test_paged_answers(placed):
    """Taking the likeliest token it answers as generation does, more prompts than fit at once; draws are a seed's."""
    placement, model = placed
    prompts = PROMPTS * 2

    def drawn(seed: int, top_k: int) -> list[Answer]:
        sampling = Sampling(9, 1.0, 1.0, top_k, batch_size=3, engine="paged")
        return sample_answers(model, byte_tokenizer(), prompts, seed, sampling, placement)

    greedy = sample_answers(model, byte_tokenizer(), prompts, None, Sampling(9, 1.0, 1.0, 0, 3, "paged"), placement)
    assert drawn(1, 1) == greedy == generate_batch(model.eval(), byte_tokenizer(), prompts, 9, placement)
    assert drawn(1, 0) == drawn(1, 0) != drawn(2, 0)


def judged(tiny_recipe, *overrides: str) -> list[Rollout]:
    """Two answers to each of two prompts."""
    recipe = tiny_recipe(*SMALL, "grpo.num_generations=2", *overrides)
    stage = Grpo(None, recipe.data, recipe.settings)  # type: ignore[arg-type]
    stage.metrics = load_data(recipe).metrics
    prompts = [
        Prompt((1, 2), reference, "", Example((), (), where))
        for where, reference in (("a:1", "larger 7\nsame no"), ("a:2", "larger 4\nsame yes"))
        for _ in range(2)
    ]
    answers = [
        Answer("larger 7\nsame no", True, (5, 257)), Answer("larger 7", False, (5, 6, 7)), Answer("", True, (257,)),
        Answer("nonsense", True, (8, 257)),
    ]  # fmt: skip
    return stage.judged(prompts, answers)


def test_rewards_are_the_metric_s(tiny_recipe):
    """field_match 1, 1/2, 0, 0; finished 1, 0, 1, 1, weight 1/2: rewards 1.5, 0.5, 0.5, 0.5, deviation 1/2 of all four.

    The first group's deviation is 1/sqrt(2); the second is all the same. Only the answers' tokens are trained.
    """
    items = judged(tiny_recipe)
    up = 0.5 / (sqrt(1 / 2) + 1e-4)
    assert [item.scores for item in items] == [(1.0, 1.0), (0.5, 0.0), (0.0, 1.0), (0.0, 1.0)]
    assert [item.reward for item in items] == [1.5, 0.5, 0.5, 0.5]
    assert [item.advantage for item in items] == pytest.approx([up, -up, 0, 0])
    assert [item.reward_std for item in items] == [0.5] * 4
    assert [item.same for item in items] == [False, False, True, True]
    assert items[1].example == Example((1, 2, 5, 6, 7), (-100, -100, 5, 6, 7), "a:1")


def test_tool_calls_are_judged_as_calls(tiny_recipe, monkeypatch):
    """The call in the template's own form, between special tokens, and its name wrong in the second answer."""
    said = [f'<tool_call>\n{{"name": "{name}", "arguments": {{"rate": 0.1}}}}\n</tool_call>' for name in ("npv", "irr")]
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]}
    )
    answers = [Answer("", True, (*tokenizer.encode(text), 257)) for text in said]
    monkeypatch.setattr(grpo, "sample_answers", lambda *_: answers)
    recipe = tiny_recipe(*SMALL, "grpo.num_generations=2", "grpo.rewards={call_names: 1.0}")
    stage = Grpo(SimpleNamespace(tokenizer=tokenizer), recipe.data, recipe.settings)  # type: ignore[arg-type]
    stage.metrics = {"": Metric(name="tool_calls")}
    tools = tuple({"type": "function", "function": {"name": name, "parameters": {}}} for name in ("npv", "irr"))
    reference = '[{"name": "npv", "arguments": {"rate": 0.1}}]'
    prompt = Prompt((1, 2), reference, "", Example((), (), "a:1"), tools)
    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    items = stage.explore(SimpleNamespace(model=None), [prompt], 0, SimpleNamespace(accelerator=accelerator))  # type: ignore[arg-type]
    assert [item.scores for item in items] == [(1.0,), (0.0,)]


def test_what_is_refused(tiny_recipe):
    cases = {
        "grpo: is missing: grpo.rewards": ("stage=grpo",),
        "train.global_batch_size: 4 answers / 8 of each prompt (grpo.num_generations) = 0.50 prompts; use a multiple of 8":
            ("stage=grpo", "grpo.rewards={finished: 1.0}"),
        "data.packing: not with stage grpo": (*SMALL, "data.packing=true"),
        "data.train_on: not with stage grpo": (*SMALL, "data.train_on=all"),
        "data.too_long: not with stage grpo: use error or drop": (*SMALL, "data.too_long=split_turns"),
        "train.torch_compile: not with stage grpo": (*SMALL, "grpo.engine=paged", "train.torch_compile=true"),
        "`epsilon` has no effect with `num_iterations` 1": (*SMALL, "grpo.epsilon=0.1"),
        "`use_bias_correction_kl` has no effect with `beta` 0": (*SMALL, "grpo.use_bias_correction_kl=true"),
        "grpo.engine: input should be 'transformers' or 'paged'; got 'vllm'": (*SMALL, "grpo.engine=vllm"),
    }  # fmt: skip
    for message, overrides in cases.items():
        with pytest.raises(RecipeError) as refused:
            tiny_recipe(*overrides)
        assert message in str(refused.value)
    recipe = tiny_recipe(*SMALL, "grpo.rewards={field_mach: 1.0, finished: 0.5}")
    with pytest.raises(RecipeError) as refused:
        load_data(recipe)
    assert refused.value.problems == [
        "grpo.rewards.field_mach: not a score of this template's metric; did you mean 'field_match'?"
    ]


def test_a_model_in_parts_is_refused(tiny_recipe, placed):
    recipe = tiny_recipe(*SMALL)
    with pytest.raises(RecipeError, match="and fsdp2 does not hold it whole in every process; launch with"):
        Grpo(None, recipe.data, recipe.settings).prepare(None, {}, replace(placed[0], engine="fsdp2"))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_splits_of_the_same_answers(tiny_recipe, loss_type):
    """Gradients of four answers (one of them of another policy, one blank) as 4, 2 + 2, one by one, and unpadded."""
    recipe = tiny_recipe(*SMALL, f"grpo.loss_type={loss_type}", "grpo.num_iterations=2", "grpo.temperature=0.8")
    stage = Grpo(ChatEncoder(byte_tokenizer()), recipe.data, recipe.settings)
    items = [
        replace(
            item, advantage=advantage, old_logps=tuple(-5.6 + 0.3 * (-1) ** n for n in range(len(item.example.ids) - 2))
        )
        for item, advantage in zip(judged(tiny_recipe), (1.0, -0.5, 0.25, -2.0), strict=True)
    ]
    items[2] = items[2].blank()
    model = TrainedPositions(tiny_llama(258))

    def results(groups, padding_free: bool = False) -> tuple[float, torch.Tensor, dict[str, float]]:
        stage.data = stage.data.model_copy(update={"padding_free": padding_free})
        model.zero_grad()
        batches = [stage.collate(group) for group in groups]
        count = sum(stage.count(batch) for batch in batches)
        losses = [stage.loss(model, batch) for batch in batches]
        for loss in losses:
            (loss.value / count).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        sums = {name: sum(float(loss.sums[name]) for loss in losses) for name in losses[0].sums}
        return sum(float(loss.value.detach()) for loss in losses) / count, gradient, sums

    whole, gradient, sums = results([items])
    assert sums["reward:count"] == 3 and sums["completions/mean_length"] == 2 + 3 + 2
    assert sums["clip_ratio/region_mean"] > 0
    for groups, padding_free in ((2, False), (1, False), (4, True), (2, True)):
        split = [items[i : i + groups] for i in range(0, 4, groups)]
        value, other, other_sums = results(split, padding_free)
        assert value == pytest.approx(whole, rel=1e-5)
        assert float((other - gradient).norm() / gradient.norm()) < 1e-5
        assert other_sums == pytest.approx(sums, rel=1e-5)


@pytest.fixture(scope="module")
def two_updates(tiny_base, tiny_data, tmp_path_factory) -> Path:
    """A run of three steps with two updates each, KL and dropout."""
    file = write_tiny_recipe(tmp_path_factory.mktemp("two"), tiny_base, tiny_data)
    recipe = load_recipe(file, TWICE)
    run(recipe)
    return recipe.output_dir


TWICE = (*SMALL, "grpo.num_iterations=2", "grpo.beta=0.05", "train.micro_batch_size=4")


def test_micro_batches(tiny_recipe, two_updates):
    """Of four and of one; with activations computed again; answers drawn three at a time."""
    recipe = tiny_recipe(
        *TWICE, "train.micro_batch_size=1", "grpo.rollout_batch_size=3", "train.gradient_checkpointing=true"
    )
    run(recipe)
    assert_same_run(recipe.output_dir, two_updates)
    one, other = ([line["reward"] for line in metrics(folder)] for folder in (recipe.output_dir, two_updates))
    assert one == other and max(one) > 0


def test_resumed_is_uninterrupted(tiny_recipe, two_updates, monkeypatch):
    """Told to stop at the first update of step 2: its second one comes first, and the answers of step 3 are the same."""
    plain, seen = Grpo.loss, []

    def interrupted(self, model, batch):
        seen.append(1)
        if len(seen) == 6:  # two micro-batches an update: the end of the first one of step 2
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, batch)

    recipe = tiny_recipe(*TWICE)
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Grpo, "loss", interrupted)
        run(recipe)
    assert json.loads((recipe.output_dir / "run_state.json").read_text())["step"] == 2
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, two_updates)


def test_the_reference_is_the_adapter_it_began_with(tiny_recipe, two_updates):
    """Going on with an adapter: at the first step the policy is its reference, at the second it is not any more."""
    recipe = tiny_recipe(*SMALL, "grpo.beta=0.1", f"model.adapter_name_or_path={two_updates / 'adapter'}")
    run(recipe)
    first, second, _third = (line["kl"] for line in metrics(recipe.output_dir))
    assert first == 0 and second > 1e-6


def test_it_learns(tiny_recipe, tmp_path):
    """A toy: say a digit near 5. Among three random bytes there is one in a few percent of the answers; after twelve
    steps of 64 answers in a third of them or more."""
    base = tmp_path / "base"
    model = tiny_llama(258)
    model.get_input_embeddings().weight.data *= 5  # a model whose distributions can be sharp
    model.save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    template = {
        "name": "five", "description": "a sum", "columns": {"a": {"type": "int"}},
        "messages": [
            {"role": "user", "content": "{{ a }}+{{ 5 - a }}="}, {"role": "assistant", "content": "5"},
        ],
        "metric": {"name": "number", "tolerance": 0.9}, "examples": [{"row": {"a": 1}, "answer": "5"}],
    }  # fmt: skip
    (tmp_path / "five.yaml").write_text(yaml.safe_dump(template, sort_keys=False))
    (tmp_path / "five.jsonl").write_text("".join(json.dumps({"a": a}) + "\n" for a in range(6)))
    recipe = tiny_recipe(
        "stage=grpo", "train.global_batch_size=64", "train.max_steps=16", "train.micro_batch_size=64",
        "train.save_steps=0", "train.eval_steps=8", "grpo.rewards={within_tolerance: 1.0}", "grpo.num_generations=16",
        "grpo.max_completion_length=3", "grpo.rollout_batch_size=64", f"data.template={tmp_path}/five.yaml",
        f"data.train={tmp_path}/five.jsonl", "data.split={eval_rows: 1}", f"model.name_or_path={base}", "lora.r=8",
        "evaluate.max_new_tokens=3", "export.parity_rows=1",
    )  # fmt: skip
    result = run(recipe)
    assert result is not None
    lines = metrics(recipe.output_dir)
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert fmean(rewards[:4]) < 0.1 and fmean(rewards[-4:]) > 1 / 3
    looks = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in looks] == [8, 16]
    for line in looks:  # one held-out prompt, answered greedily
        assert line["eval_rewards/within_tolerance/mean"] in (0, 1)
        assert line["eval_reward"] == line["eval_rewards/within_tolerance/mean"] == -line["eval_loss"]
    assert result.scores["tuned"]["within_tolerance"] == looks[-1]["eval_reward"]  # the same answers as in the end
