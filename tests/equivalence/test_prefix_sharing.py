"""Pairs with what they share computed once are the pairs computed apart: losses, numbers logged and gradients."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
import torch
import transformers

from finetune.data.chat import IGNORED, Example
from finetune.data.items import Pair
from finetune.model.adapter import add_adapter
from finetune.model.head import TrainedPositions
from finetune.model.prefix_probe import sharing_problem
from finetune.recipe_peft import LoraSection
from finetune.recipe_stages import DpoSection, OrpoSection, SimpoSection
from finetune.run import run
from finetune.stages.dpo import Dpo
from finetune.stages.orpo import Orpo
from finetune.stages.simpo import Simpo
from tests.equivalence.test_batches import assert_same_run, losses
from tests.equivalence.tiny_models import COMMON, tiny_model
from tests.stages.made import load_tiny

STAGES = {
    "dpo": (Dpo, DpoSection(rpo_alpha=0.5)),
    "ipo": (Dpo, DpoSection(loss_type="ipo")),
    "orpo": (Orpo, OrpoSection()),
    "simpo": (Simpo, SimpoSection()),
}
ENCODER = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))


def gemma2(attention: str) -> torch.nn.Module:
    """Gemma 2: scores capped at 3, every other layer with a window of 6 tokens. eager: sdpa does not cap."""
    settings = COMMON | {
        "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    }  # fmt: skip
    config = transformers.Gemma2Config(**settings, attn_implementation=attention)
    torch.manual_seed(0)
    return transformers.Gemma2ForCausalLM(config)


def policy(name: str, attention: str = "sdpa") -> TrainedPositions:
    """A LoRA model away from its base, all in float64."""
    base = gemma2("eager") if name == "gemma2" else tiny_model(name, attention)
    model, _ = add_adapter(base, LoraSection(r=2, target_modules="all-linear"), seed=0)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return TrainedPositions(model.double()).eval()


def random_pairs(count: int) -> list[Pair]:
    """Of up to 30 tokens; prompts of one and more, answers that begin alike, one that begins the other, equal ones."""
    draw = random.Random(7)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 96) for _ in range(draw.randint(low, high)))

    def example(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Example:
        return Example((*prompt, *answer), (*(IGNORED,) * len(prompt), *answer), "row")

    kinds = [((), ()), (ids(1, 6), ()), (ids(3, 3), ids(0, 3))]  # what the answers begin with; the chosen one's rest
    pairs = []
    for number in range(count):
        prompt, (begin, rest) = ids(1, 16), kinds[number % 3]
        rejected = ids(1, 8) if number % 5 else rest or ids(1, 1)
        pairs.append(Pair(example(prompt, begin + (rest or ids(1, 8))), example(prompt, begin + rejected)))
    prompt, answer = ids(4, 4), ids(5, 5)
    other = Pair(example(ids(3, 3), answer), example(ids(4, 4), answer))  # prompts that have nothing in common
    return [*pairs, Pair(example(prompt, answer), example(prompt, answer[:2])),
            Pair(example(prompt, answer[:2]), example(prompt, answer)),
            Pair(example(prompt, answer), example(prompt, answer)), other, pairs[0].blank()]  # fmt: skip


def outcome(model: TrainedPositions, stage: Dpo, pairs: list[Pair]) -> tuple[dict[str, float], torch.Tensor]:
    model.zero_grad()
    loss = stage.loss(model, stage.collate(pairs))
    loss.value.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    return {"loss": float(loss.value.detach())} | {key: float(value) for key, value in loss.sums.items()}, gradient


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-swa", "mistral", "gemma3", "gpt2"])
def test_stages(name):
    """In float64, to 1e-10 where the model has no RMSNorm, which transformers computes in float32 whatever the dtype.

    Windows of 6 tokens are narrower than most pairs. Micro-batches of 4 are the whole, too.
    """
    model, pairs = policy(name), random_pairs(9)
    near = 1e-10 if name == "gpt2" else 2e-6
    for kind, settings in STAGES.values() if name == "llama" else [STAGES["dpo"]]:
        stage = kind(ENCODER, SimpleNamespace(), settings)
        apart, slope = outcome(model, stage, pairs)
        assert float(slope.norm()) > 1e-2
        stage.prefix_sharing = True
        shared, other = outcome(model, stage, pairs)
        assert shared == pytest.approx(apart, rel=near, abs=near)
        assert float((other - slope).norm() / slope.norm()) < near
        parts = [outcome(model, stage, pairs[at : at + 4]) for at in range(0, len(pairs), 4)]
        assert sum(values["loss"] for values, _slope in parts) == pytest.approx(apart["loss"], rel=near)
        assert float((sum(its for _values, its in parts) - slope).norm() / slope.norm()) < near


def test_softcap():
    """Gemma 2 computes its softmax in float32, so to that."""
    model, pairs = policy("gemma2"), random_pairs(6)
    stage = Dpo(ENCODER, SimpleNamespace(), DpoSection())
    apart, slope = outcome(model, stage, pairs)
    stage.prefix_sharing = True
    shared, other = outcome(model, stage, pairs)
    assert shared == pytest.approx(apart, rel=1e-4, abs=1e-4)
    assert float((other - slope).norm() / slope.norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_asked(dtype):
    """Plain attention, windows and experts share; what carries the chosen answer on does not, nor do sinks."""
    expected = {
        "llama": None, "mistral": None, "gemma3": None, "qwen3-moe": None, "opt": None,
        "lfm2": "lets the rejected answer see the chosen one", "qwen3.5": "lets the rejected answer see the chosen one",
        "gpt-oss": "refuses rows with a shared beginning (its attention is not plain causal attention)",
    }  # fmt: skip
    found = {}
    for name in expected:
        model, _ = add_adapter(tiny_model(name, dtype=dtype), LoraSection(target_modules="all-linear"), seed=0)
        found[name] = sharing_problem(model, dtype, "cpu")
        assert model.config._attn_implementation == "eager"
        assert all(parameter.grad is None for parameter in model.parameters())
    assert found == expected


class Windowed(transformers.LlamaForCausalLM):
    """Layers see 6 tokens back by a mask of the model's own, as custom code does."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **rest):
        at = torch.arange(input_ids.shape[1])
        seen = (at[:, None] >= at) & (at[:, None] - at < 6)
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        return super().forward(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, **rest)


def test_a_window_of_the_models_own():
    """Its layers get a mask that says nothing of documents: pairs are computed apart."""
    model, _ = add_adapter(tiny_model("llama"), LoraSection(target_modules="all-linear"), seed=0)
    model.get_base_model().__class__ = Windowed
    assert "shared beginning" in sharing_problem(model, torch.float32, "cpu")


@pytest.mark.slow
def test_runs(tiny_base, tmp_path):
    """A run that shares is the run that does not, step by step, and counts the same tokens."""
    settings = ("train.max_steps=4", "train.eval_steps=2", "evaluate.rows=4", "export.parity_rows=1")
    folders, tokens = [], []
    for name, more in {"on": (), "off": ("dpo.prefix_sharing=false",)}.items():
        (tmp_path / name).mkdir()
        recipe = load_tiny(tmp_path / name, tiny_base, "dpo", *settings, *more)
        run(recipe)
        folders.append(recipe.output_dir)
        tokens.append(json.loads((recipe.output_dir / "bundle/MANIFEST.json").read_text())["training"]["tokens"])
    assert_same_run(*folders)
    for value in ("rewards/margins", "eval_loss"):
        assert losses(folders[0], value) == pytest.approx(losses(folders[1], value), abs=1e-5)
    assert tokens[0] == tokens[1]
