"""Attention over documents that share beginnings against one dense mask, in float64; and when it is switched on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from finetune.model import shared_prefix
from finetune.model.head import TrainedPositions
from finetune.model.shared_prefix import NAME, SharedPrefixes, attend, window_of
from tests.equivalence.tiny_models import tiny_model

# Two pairs (5 shared, rests 3 and 4; 2 shared, rests 6 and 1), two answers more to the second prompt, a lone document.
DOCUMENTS = ((0, 8), (5, 4), (0, 8), (2, 1), (2, 3), (2, 2), (0, 3))
LAYER = SimpleNamespace(is_causal=True)


def dense(documents, window) -> torch.Tensor:
    """(T, T) bool: who sees whom, written down pair by pair."""
    total = sum(own for _before, own in documents)
    seen, place, trunk = torch.zeros(total, total, dtype=torch.bool), 0, 0
    for before, own in documents:
        if before == 0:
            trunk = place
        path = [*range(trunk, trunk + before), *range(place, place + own)]
        for at in range(before, before + own):
            for other in range(at + 1):
                seen[path[at], path[other]] = window is None or at - other < window
        place += own
    return seen


@pytest.mark.parametrize("chunk", [2, 256])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 4, 7, 100])
def test_attention(window, softcap, chunk, monkeypatch):
    """Output and gradients are those of softmax over all scores with everything else at -inf; 4 heads on 2 key heads."""
    monkeypatch.setattr(shared_prefix, "CHUNK", chunk)
    draw = torch.Generator().manual_seed(2)
    total = sum(own for _before, own in DOCUMENTS)
    shapes = ((1, 4, total, 8), (1, 2, total, 8), (1, 2, total, 8))
    inputs = [torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes]
    query, key, value = inputs
    mask = None if window is None else window_of(local_size=window)
    found, weights = attend(
        LAYER, query, key, value, mask, scaling=0.3, sliding_window=window, softcap=softcap,
        shared_prefixes=SharedPrefixes(DOCUMENTS),
    )  # fmt: skip
    assert weights is None
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~dense(DOCUMENTS, window), -torch.inf)
    expected = (scores.softmax(-1) @ value.repeat_interleave(2, 1)).transpose(1, 2)
    assert float((found - expected).detach().abs().max()) < 1e-12
    slope = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    mine, its = (torch.autograd.grad(output, inputs, slope, retain_graph=True) for output in (found, expected))
    assert max(float((one - other).abs().max()) for one, other in zip(mine, its, strict=True)) < 1e-12


def test_masks_are_views_of_one():
    """Queries 6 and 7 of a sequence, window 3: 6 sees 4, 5, 6 and 7 sees 5, 6, 7. No second tensor for other queries."""
    row = SharedPrefixes([(0, 10), (4, 5)])
    inf = torch.inf
    first, mask = row.mask(6, 2, 3, torch.zeros(1))
    assert (first, mask.tolist()) == (4, [[0, 0, 0, -inf], [-inf, 0, 0, 0]])
    first, other = row.mask(1, 1, 3, torch.zeros(1))
    assert (first, other.tolist()) == (0, [[0, 0]])
    assert other.untyped_storage().data_ptr() == mask.untyped_storage().data_ptr()
    first, mask = row.mask(2, 1, None, torch.zeros(1))
    assert (first, mask.tolist()) == (0, [[0, 0, 0]])


@pytest.mark.parametrize("given", [
    {"s_aux": torch.ones(4)}, {"is_causal": False}, {"sliding_window": 4}, {"attention_mask": window_of(local_size=4)},
    {"shared_prefixes": None},
], ids=str)  # fmt: skip
def test_what_it_does_not_do_is_refused(given):
    """Sinks, attention both ways, a window that the mask knows and the layer does not, or the other way round."""
    inputs = {"attention_mask": None, "shared_prefixes": SharedPrefixes([(0, 3)])} | given
    with pytest.raises(NotImplementedError, match="not plain causal attention"):
        attend(LAYER, *(torch.ones(1, 4, 3, 8) for _ in range(3)), **inputs)
    with pytest.raises(NotImplementedError, match="rules of its own"):
        window_of(use_vmap=True)


def logits(wrapped: TrainedPositions, **given) -> torch.Tensor:
    return wrapped(torch.tensor([[5, 17, 80, 3, 44, 9]]), None, torch.arange(6), **given)


def test_the_model_has_its_own_attention_back():
    """After a forward pass, after its backward pass, and after a backward pass that failed on the way: at the next one."""
    model = tiny_model("llama").train()
    wrapped = TrainedPositions(model)
    shared = {"position_ids": torch.tensor([[0, 1, 2, 3, 2, 3]]), "documents": ((0, 4), (2, 2))}
    before = logits(wrapped)
    found = logits(wrapped, **shared)
    assert model.config._attn_implementation == "eager"
    found.sum().backward()
    assert model.config._attn_implementation == "eager"

    def fail(_gradient):
        raise ValueError("on the way")

    hook = model.model.embed_tokens.weight.register_hook(fail)
    with pytest.raises(ValueError, match="on the way"):
        logits(wrapped, **shared).sum().backward()
    hook.remove()
    logits(wrapped, **shared)
    assert model.config._attn_implementation == "eager"
    assert NAME != "eager"
    assert torch.equal(logits(wrapped), before)


def test_gradient_checkpointing():
    """Layers that are computed anew in the backward pass attend as in the forward pass: the same gradients."""
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("llama").train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        shared = {"position_ids": torch.tensor([[0, 1, 2, 3, 2, 3]]), "documents": ((0, 4), (2, 2))}
        found = logits(TrainedPositions(model), **shared)
        (found * torch.linspace(-1, 1, found.numel()).reshape(found.shape)).sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert float(gradients[0].norm()) > 0.1
    assert torch.equal(*gradients)
