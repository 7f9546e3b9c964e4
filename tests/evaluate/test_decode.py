"""Many prompts at once give the tokens that transformers' `generate` gives each alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from finetune.device.cpu import CPU
from finetune.evaluate.decode import decode, decodes, likeliest
from tests.equivalence.tiny_models import MODELS, tiny_model

SHARED = [5, 9, 13, 7, 11, 40, 41, 42, 43, 44]
OWN = [[20], [21, 22, 23], [24, 25], [26, 27, 28, 29, 30, 31], [20], [32, 33, 34], [35] * 9, [36, 37]]
LIMIT = 12


def alone(model, prompt: Sequence[int], stops: list[int]) -> tuple[int, ...]:
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=LIMIT, do_sample=False, eos_token_id=stops, pad_token_id=0, use_cache=True)
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        return tuple(
            model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[
                0, len(prompt) :
            ].tolist()
        )


def decoded(model, prompts: Sequence[Sequence[int]], *settings) -> list[tuple[int, ...]]:
    """In the prompts' order."""
    with torch.inference_mode():
        found = dict(decode(model, prompts, *settings))
    assert len(found) == len(prompts)
    return [found[row] for row in range(len(prompts))]


def lively(name: str):
    """A tiny model that says different things to different prompts."""
    model = tiny_model(name, "sdpa")
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.ndim > 1 else 1
    return model


@pytest.mark.parametrize("name", [name for name in MODELS if name in ("llama", "qwen3", "gpt2", "qwen3-moe", "opt")])
@pytest.mark.parametrize("shared", [SHARED, [5, 9]], ids=["shared", "apart"])
def test_as_generate_alone(name, shared):
    """Whatever their lengths, order, the rows at once, and where rows end early: the same tokens."""
    model = lively(name)
    assert decodes(model)
    prompts = [shared + own for own in OWN]
    free = [alone(model, prompt, [2]) for prompt in prompts]
    stops = [2, free[1][3], free[4][6]]  # some end after a few tokens
    wanted = [alone(model, prompt, stops) for prompt in prompts]
    assert len({len(answer) for answer in wanted}) > 1
    for at_once in (1, 3, 8, 50):
        assert decoded(model, prompts, LIMIT, stops, at_once) == wanted
        assert decoded(model, prompts, LIMIT, stops, at_once, likeliest, CPU.attend) == wanted
    assert decoded(model, prompts[::-1], LIMIT, stops, 3) == wanted[::-1]
    assert decoded(model, prompts[:1], LIMIT, stops, 3) == wanted[:1]
    assert decoded(model, [], LIMIT, stops, 3) == []


def test_which_models():
    """Sliding windows and states are transformers' own business; full attention by position ids is not."""
    found = {name: decodes(tiny_model(name, "eager")) for name in MODELS}
    full = {"llama", "qwen3", "gpt2", "qwen3-moe", "opt"}
    assert found == {name: name in full for name in MODELS}


def test_rows_are_told_to_the_choice():
    """Whichever place a row has in the batch, its own number comes with its scores."""
    model = tiny_model("llama", "sdpa")
    prompts = [SHARED + own for own in OWN]

    def own_token(scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        assert len(scores) == len(rows)
        return torch.tensor([60 + row for row in rows])

    found = decoded(model, prompts, 3, [64], 3, own_token)
    assert found == [(60 + row,) * (1 if row == 4 else 3) for row in range(len(prompts))]
    assert likeliest(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), [0, 1]).tolist() == [1, 0]
