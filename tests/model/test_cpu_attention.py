"""The CPU's attention within documents: autograd's own numbers, and which models are found to compute it."""

from __future__ import annotations

import pytest
import torch

from finetune.device import DEVICES
from finetune.device.cpu_attention import document_attention
from finetune.model.fused import fuse
from finetune.model.head import TrainedPositions
from tests.equivalence.tiny_models import COMMON, MODELS, tiny_model

BOUNDS = [0, 300, 301, 700]  # one of a token, one beyond a block of keys


def drawn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_definition(q, k, v, bounds, scale, window):
    """softmax(q k^T scale) v over the keys that a token may see, in a (T, T) square."""
    place = torch.arange(q.shape[2])
    document = sum((place >= bound).long() for bound in bounds[1:-1])
    seen = (place[:, None] >= place) & (document[:, None] == document)
    if window is not None:
        seen &= place[:, None] - place < window
    keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = (q @ keys.transpose(-1, -2) * scale).masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, -1) @ values


def computed(attention, inputs, dtype, slope, window):
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    output = attention(*leaves, BOUNDS, 0.125, window)
    grads = torch.autograd.grad(output, leaves, slope.to(dtype))
    return [tensor.double().detach() for tensor in (output, *grads)]


def apart(some, others):
    return [float((one - other).norm() / other.norm()) for one, other in zip(some, others, strict=True)]


@pytest.mark.parametrize("heads", [(6, 2), (3, 3)])
@pytest.mark.parametrize("window", [None, 100])
def test_the_definition(heads, window):
    """In float64 to the last digits; in bfloat16 nearer to float64 than the square computed in bfloat16, gradients as near."""
    inputs = [
        drawn(2, n, 700, 16, seed=seed).bfloat16().double() for seed, n in enumerate((heads[0], heads[1], heads[1]))
    ]
    slope = drawn(2, heads[0], 700, 16, seed=3).bfloat16().double()
    exact = computed(by_definition, inputs, torch.float64, slope, window)
    assert max(apart(computed(document_attention, inputs, torch.float64, slope, window), exact)) < 1e-13
    assert max(apart(computed(document_attention, inputs, torch.float32, slope, window), exact)) < 2e-6
    ours = apart(computed(document_attention, inputs, torch.bfloat16, slope, window), exact)
    square = apart(computed(by_definition, inputs, torch.bfloat16, slope, window), exact)
    assert ours[0] < square[0]
    assert all(mine < 1.5 * its for mine, its in zip(ours, square, strict=True)), (ours, square)


def said(name):
    lines = []
    fused = fuse(tiny_model(name), DEVICES["cpu"].kernels(), torch.float32, torch.device("cpu"), lines.append)
    return fused, lines


@pytest.mark.parametrize(
    ("name", "layers"), [("llama", 4), ("qwen3", 4), ("gemma3", 4), ("mistral", 4), ("qwen3-swa", 4)]
)
def test_models_that_compute_it(name, layers):
    """Windows and scales are the model's own."""
    assert said(name)[0].about["attention"] == pytest.approx({"modules": layers, "max_difference": 0}, abs=1e-5)


def test_a_model_that_asks_for_more_keeps_its_own(monkeypatch):
    """Gemma 2 caps the scores."""
    monkeypatch.setitem(MODELS, "gemma2", ("Gemma2Config", "Gemma2ForCausalLM", COMMON | {"head_dim": 16}))
    fused, lines = said("gemma2")
    (left,) = fused.about["attention"]["plain"]
    assert "asks for softcap" in left["because"] and any("softcap" in line and "stays plain" in line for line in lines)


def test_rows_are_computed_without_their_padding():
    """Logits and gradients of padded rows are those of the plain model, which sees the padding."""
    model = tiny_model("llama")
    ids = torch.randint(3, 19, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < torch.tensor([12, 5, 1])[:, None]).long()
    kept = torch.tensor([0, 4, 11, 12, 16, 24])
    wrapped = TrainedPositions(model)

    def results():
        model.zero_grad()
        logits = wrapped(ids, mask, kept)
        logits.logsumexp(-1).sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters())]

    plain = results()
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    with fuse(model, DEVICES["cpu"].kernels(), torch.float32, torch.device("cpu"), lambda line: None):
        fused = results()
    hook.remove()
    assert seen[-1] == (1, 18)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_of_the_weights_is_the_models_own(packed):
    """GPT-2 trains with it: one row of the same shape draws the same, so the numbers are the plain model's."""
    model = tiny_model("gpt2", attn_pdrop=0.3, resid_pdrop=0.0, embd_pdrop=0.0)
    ids = torch.randint(3, 19, (1, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(7), *range(5)]]) if packed else None
    bounds = torch.tensor([0, 7, 12], dtype=torch.int32) if packed else None
    mask = None if packed else torch.ones_like(ids)
    wrapped = TrainedPositions(model).train()

    def results():
        model.zero_grad()
        torch.manual_seed(0)
        logits = wrapped(ids, mask, torch.arange(12), positions, bounds)
        logits.logsumexp(-1).sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters())]

    plain = results()
    with fuse(model, DEVICES["cpu"].kernels(), torch.float32, torch.device("cpu"), lambda line: None) as fused:
        assert "modules" in fused.about["attention"]
        found = results()
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    wrapped.eval()
    assert (results()[0] - plain[0]).abs().max() > 1e-3  # dropped it did
