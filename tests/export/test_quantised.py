"""The comparison with an engine's answers, by hand; the engine itself runs in tests/serving."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from finetune.data.chat import Example
from finetune.errors import GateError
from finetune.export import quantised
from finetune.export.quantised import Served, compare_served, prove_gguf

STOP = 3


class Model:
    """Four tokens; after token t comes t + 1 with probability 0.7, any other with 0.1."""

    generation_config = SimpleNamespace(eos_token_id=STOP)

    def __call__(self, input_ids, use_cache):
        logits = torch.full((*input_ids.shape, 4), math.log(0.1))
        return SimpleNamespace(logits=logits.scatter(-1, ((input_ids + 1) % 4)[..., None], math.log(0.7)))


EXAMPLE = Example((0, 0, 1, 2, 3), (-100, -100, 1, 2, 3), "here")


def said(first: list, answer: list[int], stopped: bool) -> dict:
    """The engine says `first` at the first position and what Model says at the other two."""
    rest = [[[2, math.log(0.7)], [0, math.log(0.1)]], [[3, math.log(0.7)], [1, math.log(0.1)]]]
    return {"logprobs": [[first, *rest]], "greedy": [{"ids": answer, "stopped": stopped}]}


def test_an_engine_that_agrees():
    same = said([[1, math.log(0.7)], [0, math.log(0.1)]], [1, 2, STOP], True)
    served = compare_served(Model(), [EXAMPLE], same)
    assert served == Served(1, 3, pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6), 1.0, 1.0)


def test_differences_by_hand():
    """At one position of three the engine gives its favourite 0 half, 1 a quarter, the rest the other quarter:
    KL over (1), (0), (rest) = 0.7 ln(0.7/0.25) + 0.1 ln(0.1/0.5) + 0.2 ln(0.2/0.25)."""
    other = said([[0, math.log(0.5)], [1, math.log(0.25)]], [0, 1, 2], True)
    served = compare_served(Model(), [EXAMPLE], other)
    kl = 0.7 * math.log(0.7 / 0.25) + 0.1 * math.log(0.1 / 0.5) + 0.2 * math.log(0.2 / 0.25)
    assert served.mean_kl == pytest.approx(kl / 3, rel=1e-6)
    assert served.max_logprob_difference == pytest.approx(math.log(5))
    assert (served.positions, served.greedy_agreement, served.answers_equal) == (3, pytest.approx(2 / 3), 0.0)


@pytest.mark.parametrize(
    ("answer", "stopped", "equal"),
    [
        ([1, 2], True, 1.0),
        ([1, 2], False, 1.0),
        ([1, 2, STOP], True, 1.0),
        ([1], True, 0.0),
        ([1, 2, 3, 0], False, 0.0),
    ],
)
def test_the_stop_is_part_of_the_answer(answer, stopped, equal):
    """Model stops after 1 2. An answer cut by its length is held to its tokens alone; one that runs on is not equal."""
    same = said([[1, math.log(0.7)], [0, math.log(0.1)]], answer, stopped)
    assert compare_served(Model(), [EXAMPLE], same).answers_equal == equal


def test_without_an_engine_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert prove_gguf(tmp_path / "m.gguf", tmp_path, [EXAMPLE], "f16") == {
        "not run": "no engine for GGUF files here; pip install 'finetune[llamacpp]'"
    }


def test_over_the_limit_is_a_gate(monkeypatch, tiny_base, tmp_path):
    """Ids first, then the limits of the type; without an engine: its answers are made up."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_base)("<|im_start|>ab<|im_end|>").input_ids
    example = Example(tuple(ids), (-100, -100, *ids[2:]), "here")
    made_up = {
        "ids": [ids],
        "logprobs": [[[[ids[2], -0.1], [ids[1], -3.0]], [[257, -0.1], [ids[1], -3.0]]]],
        "greedy": [{"ids": [ids[2]], "stopped": True}],
    }
    monkeypatch.setattr(quantised, "run_gguf", lambda *asked: made_up)
    with pytest.raises(GateError, match=r"m.gguf run by llama.cpp is not the merged model: mean_kl .*, limit 0.03"):
        prove_gguf(tmp_path / "m.gguf", tiny_base, [example], "q8_0")
    made_up["ids"] = [ids[:-1]]
    with pytest.raises(GateError, match=r"splits 1 of 1 texts into other ids than the tokenizer"):
        prove_gguf(tmp_path / "m.gguf", tiny_base, [example], "q8_0")
