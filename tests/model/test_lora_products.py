"""LoRA layers and MLPs with a backward written by hand: peft's numbers, which layers they stand for, adapters on and off."""

from __future__ import annotations

import dataclasses

import peft
import pytest
import torch

from finetune.device import DEVICES
from finetune.model import lora_product
from finetune.model.fused import fuse
from tests.equivalence.tiny_models import tiny_model

IDS = torch.randint(3, 19, (2, 11), generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def with_lora(name="llama", **settings):
    """An adapter that says something, on all linear layers unless told."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | settings
    torch.manual_seed(0)
    return peft.get_peft_model(tiny_model(name), peft.LoraConfig(task_type="CAUSAL_LM", **settings))


def fused_of(model, dtype=torch.float32):
    return fuse(model, DEVICES["cpu"].kernels(), dtype, CPU, lambda line: None)


def computed(model):
    model.zero_grad()
    logits = model(IDS).logits
    logits.float().logsumexp(-1).mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "mistral"])
def test_the_numbers_of_peft(name):
    """Logits and the gradient of every A and B, in float64 to 1e-10."""
    model = with_lora(name).double()
    plain = computed(model)
    # Norms and the softmax of transformers are float32 whatever the dtype: these stay as they are here.
    kernels = dataclasses.replace(DEVICES["cpu"].kernels(), rms_norm=None, attention=None)
    fused = fuse(model, kernels, torch.float64, CPU, lambda line: None)
    with fused:
        inside = computed(model)
    assert fused.about["lora"]["modules"] > 0 and "plain" not in fused.about["lora"]
    assert len(inside) == len(plain)
    for one, other in zip(inside, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert all(map(torch.equal, computed(model), plain))  # and nothing of it stays


def test_halves_by_hand():
    """x = (1, 2), W = 2 I, A = (1, 1), B = (1, 0)^T, s = 3, and dy = (1, 10).

    y = W x + 3 (A x) B = (2, 4) + 9 (1, 0) = (11, 4). dB = dy * 3 A x = (9, 90), dt = 3 B dy = 3, dA = dt x = (3, 6),
    dx = W dy + dt A = (2, 20) + (3, 3) = (5, 23).
    """
    layer = peft.tuners.lora.layer.Linear(
        torch.nn.Linear(2, 2, bias=False).requires_grad_(False),
        "default",
        peft.LoraConfig(r=1, lora_alpha=3),
        r=1,
        lora_alpha=3,
    )
    layer.base_layer.weight.data = 2 * torch.eye(2)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a.data, b.data = torch.ones(1, 2), torch.tensor([[1.0], [0.0]])
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert lora_product.fits(layer)
    y = lora_product.lora_forward(layer, x)
    dx, da, db = torch.autograd.grad(y, (x, a, b), torch.tensor([[1.0, 10.0]]))
    assert y.tolist() == [[11, 4]]
    assert (dx.tolist(), da.tolist(), db.tolist()) == ([[5, 23]], [[3, 6]], [[9], [90]])


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_a_young_adapter_counts_in_bfloat16(bias):
    """s B A x with |B| = 1e-4, less than a bit of most outputs: in the mean all of it comes through, in y and in dx.

    How much comes through: the slope of what B changes on what it should. Rounded in peft's order it is 0.34 here.
    """
    torch.manual_seed(0)
    x, dy = torch.randn(256, 576).bfloat16(), torch.randn(256, 192).bfloat16()
    weight, down = (torch.randn(192, 576) * 0.04).bfloat16(), (torch.randn(16, 576) * 0.03).bfloat16()
    up = (torch.randn(192, 16).sign() * 1e-4).bfloat16()
    some = torch.randn(192).bfloat16() if bias else None

    def slope(change, exact):
        return float((change.double() * exact).sum() / (exact * exact).sum())

    def both(up):
        layer = lora_product.Weights(weight, some, down, up, 2.0)
        y, thin = lora_product.product(x, layer)
        dthin, _ = lora_product.slopes(dy, thin, layer)
        return y.double(), lora_product.input_slope((dy, dthin, layer)).double()

    (y, dx), (y0, dx0) = both(up), both(torch.zeros_like(up))
    ab = 2 * up.double() @ down.double()
    exact = x.double() @ ab.t()
    assert slope(y - y0, exact) == pytest.approx(1, abs=0.1)
    assert slope(dx - dx0, dy.double() @ ab) == pytest.approx(1, abs=0.1)
    theirs = torch.nn.functional.linear(x, weight, some)
    added = theirs + 2 * (x @ down.t()) @ up.t()
    assert slope(added.double() - theirs.double(), exact) < 0.5
    if not bias:
        assert torch.equal(y0, theirs.double())


@pytest.mark.parametrize(
    "settings",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"rank_pattern": {"up_proj": 2}, "lora_dropout": 0.5}],
)
def test_what_it_is_not_for(settings):
    """Dropout draws between the halves, DoRA divides by norms: those stay peft's, and nothing is said."""
    model = with_lora(**settings)
    assert not any(lora_product.fits(module) for module in model.modules())
    assert fused_of(model).about["lora"]["modules"] == 0


def test_some_layers_only():
    """MLPs of which one layer has LoRA are one function; those without are the plain gate."""
    model = with_lora(target_modules=["down_proj", "q_proj"], layers_to_transform=[0, 1])
    plain = computed(model)
    fused = fused_of(model)
    # Two MLPs and their two down_proj, two q_proj; of four layers the other two have a plain gate.
    assert (fused.about["lora"]["modules"], fused.about["swiglu"]["modules"]) == (6, 2)
    with fused:
        for one, other in zip(computed(model), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_base_is_the_base():
    """With the adapter off, and with it merged, the fused model gives what the plain one gives then."""
    model = with_lora()
    with torch.no_grad():
        with model.disable_adapter():
            base = model(IDS).logits
        tuned = model(IDS).logits
        assert (base - tuned).abs().max() > 0.01
        with fused_of(model):
            with model.disable_adapter():
                torch.testing.assert_close(model(IDS).logits, base, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model(IDS).logits, tuned, rtol=1e-4, atol=1e-5)
            model.merge_adapter()
            torch.testing.assert_close(model(IDS).logits, tuned, rtol=1e-4, atol=1e-5)
            model.unmerge_adapter()


def test_a_frozen_half_has_no_gradient_and_keeps_no_input():
    """LoRA-FA: A stays; the layer's input is not among what the backward keeps."""
    model = with_lora()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    plain = computed(model)
    with fused_of(model):
        inside = computed(model)
    assert len(inside) == len(plain)
    for one, other in zip(inside, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
