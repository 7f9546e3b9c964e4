"""Quick linear layers compute what the layers compute, leave nothing behind, and leave alone what they do not know."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
from torch.nn import functional as F

from finetune.device.cpu import CPU
from finetune.device.onednn import packed_linear
from finetune.evaluate.decode import decode
from finetune.evaluate.quick import quick_linears
from tests.equivalence.tiny_models import tiny_model
from tests.evaluate.test_decode import LIMIT, OWN, SHARED, alone


def plain_product(weight, bias, rows):
    """In any dtype, by torch's own operations."""
    return lambda x, added=None: F.linear(x, weight, bias) + (0 if added is None else added)


ANY = replace(CPU, packed_linear=plain_product)
IDS = torch.arange(40).reshape(4, 10)


def adapted(**settings):
    """A tiny Llama with 64 wide layers and a LoRA adapter that changes what it says."""
    torch.manual_seed(0)
    model = tiny_model("llama", "sdpa")
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.ndim > 1 else 1
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False, **settings)
    return peft.get_peft_model(model, config).eval()


def quick_ones(model) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_same_logits_with_adapter_on_and_off_and_nothing_left_behind():
    """W x + s B A x in float32 to rounding; the layers' own forward is back afterwards, after an error too."""
    model = adapted()
    with torch.inference_mode():
        on = model(IDS).logits
        with quick_linears(model, ANY, 4):
            lora = [name for name in quick_ones(model) if name.endswith("_proj")]
            assert len(lora) == 7 * model.config.num_hidden_layers
            torch.testing.assert_close(model(IDS).logits, on, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            off = model(IDS).logits
            with quick_linears(model, ANY, 4):
                torch.testing.assert_close(model(IDS).logits, off, rtol=1e-4, atol=1e-4)
        assert (on - off).abs().max() > 0.1
        with pytest.raises(KeyError), quick_linears(model, ANY, 4):
            raise KeyError
        assert quick_ones(model) == []
        assert torch.equal(model(IDS).logits, on)


def test_same_answers_as_generate():
    """Token for token, in float32, with the adapter on."""
    model = adapted()
    base, prompts = model.get_base_model(), [SHARED + own for own in OWN]
    wanted = [alone(model, prompt, [2]) for prompt in prompts]
    with torch.inference_mode(), quick_linears(base, ANY, 3):
        assert quick_ones(base)
        found = dict(decode(base, prompts, LIMIT, [2], 3))
    assert [found[row] for row in range(len(prompts))] == wanted


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_two_products_stays(settings):
    """DoRA and LoRA with a bias keep peft's forward; the base layers inside them are quick all the same."""
    model = adapted(**settings)
    with torch.inference_mode(), quick_linears(model, ANY, 4):
        assert not [name for name in quick_ones(model) if name.endswith("_proj")]


def test_devices_without_it_and_large_models_stay():
    model = adapted()
    with quick_linears(model, replace(CPU, packed_linear=None), 4):
        assert quick_ones(model) == []
    with quick_linears(model, CPU, 4):  # float32: there is nothing quicker
        assert quick_ones(model) == []


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_onednn_s_product(rows):
    """bf16 by oneDNN against the same numbers in float64: off by no more than one rounding of the result (2^-8)."""
    torch.manual_seed(1)
    weight, bias = torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16()
    x, added = torch.randn(rows, 3, 64).bfloat16(), torch.randn(rows, 3, 96).bfloat16()
    product = packed_linear(weight, bias, rows)
    if product is None:
        pytest.skip("this build of torch, or this chip, has no packed product in bfloat16")
    exact = F.linear(x.double(), weight.double(), bias.double())
    for found, wanted in ((product(x), exact), (product(x, added), exact + added.double())):
        assert found.dtype == torch.bfloat16 and found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted, rtol=2**-7, atol=2**-5)
    assert packed_linear(weight.float(), None, rows) is None


def test_a_young_adapter_counts_in_bfloat16():
    """s B A x with |B| = 1e-4: in the mean all of it comes through the packed products; in peft's order a third."""
    torch.manual_seed(0)
    base = torch.nn.Linear(576, 192, bias=False).bfloat16().requires_grad_(False)
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(torch.nn.Sequential(base), config, autocast_adapter_dtype=False).bfloat16().eval()
    layer = model.base_model.model[0]
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    up.data = (torch.randn(192, 16).sign() * 1e-4).bfloat16()
    if CPU.packed_linear(base.weight, None, 256) is None:
        pytest.skip("no packed bfloat16 product on this chip")
    x = torch.randn(256, 576).bfloat16()
    exact = 2 * (x.double() @ down.double().t()) @ up.double().t()

    def share() -> float:
        """Of what B should change, what it does."""
        with_b, kept = model(x).double(), up.data
        up.data = torch.zeros_like(kept)
        without, up.data = model(x).double(), kept
        return float(((with_b - without) * exact).sum() / (exact * exact).sum())

    with torch.inference_mode():
        assert share() < 0.5
        changes = []
        for up_now in (up.data, torch.zeros_like(up.data)):  # what is packed is a copy
            up.data = up_now
            with quick_linears(model, CPU, 256):
                assert len(quick_ones(model)) == 1, "the base inside is not packed a second time"
                changes.append(model(x).double())
        assert float(((changes[0] - changes[1]) * exact).sum() / (exact * exact).sum()) == pytest.approx(1, abs=0.1)
