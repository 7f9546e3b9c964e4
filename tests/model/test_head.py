"""Log-probabilities in chunks are those of all logits at once, with the gradient, whatever a model does to its logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from finetune.data.chat import IGNORED, Example
from finetune.data.pack import join
from finetune.model import token_logps
from finetune.model.head import TrainedPositions
from finetune.model.token_logps import chunked_logps, read_logps, rows_at_once
from finetune.stages import logps as of_batch
from finetune.stages.batch import collate_rows, model_inputs
from finetune.tied_lora import tie_ends
from tests.equivalence.tiny_models import COMMON, VOCABULARY, tiny_model

SOFT = COMMON | {"head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 0.5, "initializer_range": 0.2}
# Soft-capped; scaled before, and tied; scaled after; tied; with its own bias and another name of the body
MODELS: dict[str, Any] = {
    "llama": lambda: tiny_model("llama"),
    "gemma2": lambda: made("Gemma2", SOFT),
    "cohere": lambda: made("Cohere", COMMON | {"logit_scale": 0.3, "use_qk_norm": False}),
    "granite": lambda: made("Granite", COMMON | {"logits_scaling": 3.0}),
    "gpt2": lambda: tiny_model("gpt2"),
    "phi": lambda: made("Phi", COMMON | {"num_key_value_heads": 4}),
    "opt": lambda: tiny_model("opt"),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "body": {"target_modules": "all-linear"},
    "head": {"target_modules": ["lm_head"]},
    "saved head": {"target_modules": "all-linear", "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": "all-linear", "trainable_token_indices": {"embed_tokens": [3, 7], "lm_head": [3, 9]}},
}
ROWS = 4  # at a time


def made(name: str, settings: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{name}Config")(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def adapted(model: Any, settings: dict[str, Any]) -> Any:
    """With an adapter that is not zero, all of it in float64."""
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **settings)).double()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(token_logps, "CHUNK", 1)
    monkeypatch.setattr(token_logps, "WIDE", 16)
    assert rows_at_once(COMMON["hidden_size"], VOCABULARY) == ROWS


def batch(packed: bool) -> dict[str, torch.Tensor]:
    """Documents of 11, 7 and 5 tokens, all but the first two of each trained on: 17 positions."""
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in (11, 7, 5)]
    examples = [Example(tuple(ids), (IGNORED, IGNORED, *ids[2:]), "row") for ids in rows]
    return collate_rows([join(examples)] if packed else examples, 0)


@contextmanager
def rows_of_head(model: Any) -> Iterator[list[int]]:
    """How many rows the head was given, each time."""
    seen: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[-2]))
    try:
        yield seen
    finally:
        hook.remove()


def results(model: Any, given: dict[str, torch.Tensor], chunked: bool) -> dict[str, torch.Tensor]:
    """Log-probabilities, whether the targets are the likeliest, and every gradient of a weighted sum."""
    wrapped = TrainedPositions(model)
    model.zero_grad()
    if chunked:
        logps, likeliest = of_batch.token_logps(wrapped, given)
    else:
        logits = wrapped(*model_inputs(given))
        logps = F.log_softmax(logits, -1).gather(1, given["targets"][:, None])[:, 0]
        likeliest = logits.argmax(-1) == given["targets"]
    (logps * torch.linspace(-1, 2, len(logps)).to(logps)).sum().backward()
    wrapped.release()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logps": logps.detach(), "likeliest": likeliest.double()} | gradients


def assert_chunks_are_the_whole(model: Any, given: dict[str, torch.Tensor], heads: int) -> None:
    """To 1e-10; the head sees no more than ROWS rows at a time, `heads` times all of them and once none.

    Where it trains (`heads` 2), chunks are four times as large.
    """
    whole = results(model, given, chunked=False)
    with rows_of_head(model) as seen:
        found = results(model, given, chunked=True)
    assert seen == ([0, 4, 4, 4, 4, 1] if heads == 1 else [0, 16, 1, 1, 16])
    assert found.keys() == whole.keys()
    assert max(float(gradient.abs().max()) for name, gradient in whole.items() if "." in name) > 1e-4
    for name, tensor in whole.items():
        assert float((found[name] - tensor).abs().max()) < 1e-10, name


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    """A LoRA in the body, padded rows: the head is multiplied by once."""
    settings = ADAPTERS["body"] | {"fan_in_fan_out": name == "gpt2"}
    assert_chunks_are_the_whole(adapted(MODELS[name](), settings), batch(packed=False), heads=1)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_packed(adapter):
    """Where the head trains, its chunks are made a second time for the gradient."""
    heads = 1 if adapter == "body" else 2
    assert_chunks_are_the_whole(adapted(MODELS["llama"](), ADAPTERS[adapter]), batch(packed=True), heads)


def test_a_head_that_is_the_embedding_turned_round():
    """All of gpt2 trains, its tied matrix too; and one LoRA on both ends of a tied matrix, whose head has no weight."""
    assert_chunks_are_the_whole(MODELS["gpt2"]().double(), batch(packed=False), heads=2)
    settings = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    tied = adapted(tiny_model("llama", tie_word_embeddings=True), settings)
    tie_ends(tied)
    assert_chunks_are_the_whole(tied, batch(packed=False), heads=2)


def test_virtual_tokens():
    from peft import PromptTuningConfig

    torch.manual_seed(1)
    model = get_peft_model(MODELS["llama"](), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).double()
    assert_chunks_are_the_whole(model, batch(packed=False), heads=1)


def test_without_gradient():
    """At a look: the same numbers, the head once."""
    model, given = adapted(MODELS["gemma2"](), ADAPTERS["body"]), batch(packed=True)
    wrapped = TrainedPositions(model)
    with torch.no_grad(), rows_of_head(model) as seen:
        logps, likeliest = of_batch.token_logps(wrapped, given)
        logits = wrapped(*model_inputs(given))
    assert seen == [0, 4, 4, 4, 4, 1, 17]
    assert not logps.requires_grad
    assert torch.allclose(logps, -F.cross_entropy(logits, given["targets"], reduction="none"), atol=1e-10, rtol=0)
    assert torch.equal(likeliest, logits.argmax(-1) == given["targets"])


def test_a_trained_head_with_one_chunk(monkeypatch):
    """Nothing is computed twice then."""
    monkeypatch.setattr(token_logps, "CHUNK", 5 * VOCABULARY)
    model, given = adapted(MODELS["llama"](), ADAPTERS["head"]), batch(packed=False)
    whole = results(model, given, chunked=False)
    with rows_of_head(model) as seen:
        found = results(model, given, chunked=True)
    assert seen == [0, 17]
    assert max(float((found[name] - tensor).abs().max()) for name, tensor in whole.items()) < 1e-10


def test_nothing_to_train_on():
    """A blank row still gives every parameter a gradient, of zeros, for processes that wait for it."""
    model = adapted(MODELS["llama"](), ADAPTERS["body"])
    given = collate_rows([Example((3, 4, 5), (IGNORED,) * 3, "blank")], 0)
    logps, likeliest = of_batch.token_logps(TrainedPositions(model), given)
    assert logps.shape == likeliest.shape == (0,)
    logps.sum().backward()
    assert all(float(p.grad.abs().max()) == 0 for p in model.parameters() if p.requires_grad)


def test_the_model_is_left_as_it_was():
    """Also after an error in the head; the body's own `forward` may be one of the instance."""
    model, given = MODELS["llama"]().double(), batch(packed=False)
    own = model.model.forward
    model.model.forward = own
    wrapped = TrainedPositions(model)
    before = wrapped(*model_inputs(given))
    of_batch.token_logps(wrapped, given)
    broken = model.lm_head.register_forward_hook(lambda _m, inputs, _o: 1 / len(inputs[0][0]) and None)
    with pytest.raises(ZeroDivisionError):
        of_batch.token_logps(wrapped, given)
    broken.remove()
    assert model.model.forward is own
    assert torch.equal(wrapped(*model_inputs(given)), before)
    hooks = len(model.lm_head._forward_pre_hooks), len(model.model._forward_hooks)
    wrapped.release()
    assert (len(model.lm_head._forward_pre_hooks), len(model.model._forward_hooks)) == (hooks[0] - 1, hooks[1] - 1)


def test_a_body_that_is_not_to_be_found():
    """All logits at once then, and the same numbers."""
    model, given = adapted(MODELS["llama"](), ADAPTERS["body"]), batch(packed=False)
    whole = results(model, given, chunked=False)
    model.get_base_model().base_model_prefix = "elsewhere"
    with rows_of_head(model) as seen:
        found = results(model, given, chunked=True)
    assert seen == [17]
    for name, tensor in whole.items():
        assert float((found[name] - tensor).abs().max()) < 1e-10, name


def by_hand(probabilities: list[float], target: int, temperature: float) -> tuple[torch.Tensor, ...]:
    """Of one hidden state that is the logits themselves, in chunks and at once, which must agree."""
    hidden = torch.tensor([probabilities]).log().requires_grad_()
    goal = torch.tensor([target])
    logps, likeliest, entropy = chunked_logps(lambda h: h, hidden, goal, hidden.shape[1], False, temperature, True)
    (slope,) = torch.autograd.grad(logps.sum(), hidden)
    again = read_logps(hidden, goal, temperature, True)
    (plain,) = torch.autograd.grad(again[0].sum(), hidden)
    for one, other in zip((logps, likeliest, entropy, slope), (*again, plain), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)
    return logps.detach(), likeliest, entropy, slope


def test_by_hand():
    """(4/5, 1/5) at temperature 2 has the odds 2: (2/3, 1/3). log p of the second is -ln 3, its derivative by the logits
    (-2/3, 1 - 1/3) / 2; the entropy ln 3 - 2/3 ln 2. A fair coin at temperature 1: of equals the first is the likeliest."""
    logps, likeliest, entropy, slope = by_hand([4 / 5, 1 / 5], 1, 2.0)
    assert float(logps) == pytest.approx(-log(3)) and not bool(likeliest)
    assert float(entropy) == pytest.approx(log(3) - 2 / 3 * log(2))
    assert slope[0].tolist() == pytest.approx([-1 / 3, 1 / 3])
    logps, likeliest, entropy, slope = by_hand([1 / 2, 1 / 2], 0, 1.0)
    assert float(logps) == pytest.approx(-log(2)) and bool(likeliest)
    assert float(entropy) == pytest.approx(log(2))
    assert slope[0].tolist() == pytest.approx([1 / 2, -1 / 2])


def test_bfloat16_is_as_close_as_all_at_once():
    """Errors against float64 of log-probabilities and of the gradient by hidden states, where some targets are all but
    certain: no larger than those of a loss in float32 on bfloat16 logits (a few per cent for rounding in another order)."""
    draw = torch.Generator().manual_seed(0)
    weight = (torch.randn(500, 64, generator=draw) * 0.3).bfloat16()
    targets = torch.randint(500, (256,), generator=draw)
    start = (torch.randn(256, 64, generator=draw) + torch.linspace(0, 2, 256)[:, None] * weight[targets]).bfloat16()

    def values(dtype: torch.dtype, chunked: bool) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = start.to(dtype, copy=True).requires_grad_()
        read = (
            chunked_logps(lambda h: F.linear(h, weight.to(dtype)), hidden, targets, 500, False)
            if chunked
            else read_logps(F.linear(hidden, weight.to(dtype)), targets, 1.0, False)
        )
        (read[0].sum() / 7).backward()
        return read[0].detach().double(), hidden.grad.double()

    exact = values(torch.float64, chunked=False)
    plain, ours = (
        [float((x - y).norm() / y.norm()) for x, y in zip(values(torch.bfloat16, chunked=chunked), exact, strict=True)]
        for chunked in (False, True)
    )
    assert ours[0] <= plain[0] * 1.001
    assert ours[1] <= plain[1] * 1.05
