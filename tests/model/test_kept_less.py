"""What the CPU's functions do not keep: a norm's input, the wide tensors of an MLP in half precision, code for many sizes."""

from __future__ import annotations

import itertools

import pytest
import torch

from finetune.device import cpu_kernels
from finetune.device.elementwise import norm, norm_slope, norm_slope_by_output
from finetune.device.onednn import few_sizes
from finetune.model import lora_mlp, varlen
from finetune.model.head import packed_inputs
from finetune.model.lora_product import Weights
from tests.equivalence.tiny_models import tiny_model

GENERATOR = torch.Generator().manual_seed(5)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR).to(dtype)


def kept_by(compute) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (found.append(t), t)[1], lambda t: t):
        compute()
    return found


def test_the_input_s_derivative_from_the_output_by_hand():
    """x = (3, 4), epsilon 0, w = (1, 2): r = 1 / sqrt(12.5), y = r (3, 8). dy = (1, 1): sum(dy y) / 2 = 5.5 r, so that
    dx = r ((1, 2) - r (3, 4) 5.5 r) = r (1 - 16.5 / 12.5, 2 - 22 / 12.5) = r (-0.32, 0.24)."""
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    y, roots = norm(x, weight, 0.0)
    expected = torch.tensor([[-0.32, 0.24]]) / 12.5**0.5
    torch.testing.assert_close(norm_slope_by_output(torch.ones(1, 2), y, weight, roots), expected)
    assert torch.equal(weight, torch.tensor([1.0, 2.0]))
    assert torch.equal(y, norm(x, weight, 0.0)[0])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_it_is_as_near_to_float64_as_from_the_input(dtype, limit):
    x, dy, weight = drawn(300, 64, dtype=dtype) * 3, drawn(300, 64, dtype=dtype), drawn(64, dtype=dtype) + 2
    exact = x.double().requires_grad_()
    (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-5) * weight.double() * dy.double()).sum().backward()
    y, roots = norm(x, weight, 1e-5)

    def off(slope: torch.Tensor) -> float:
        return float((slope.double() - exact.grad).norm() / exact.grad.norm())

    by_output = off(norm_slope_by_output(dy, y, weight, roots))
    assert by_output < limit
    assert by_output < 2 * off(norm_slope(dy, x, weight, roots)) + 1e-7


@pytest.mark.parametrize("smallest", [0.0, 1e-6, 2.0**-10, 1.0])
@pytest.mark.parametrize("trains", [False, True])
def test_a_norm_keeps_its_output_unless_its_weight_trains_or_is_near_zero(smallest, trains):
    weight = torch.ones(8)
    weight[3] = smallest
    weight.requires_grad_(trains)
    x = drawn(5, 8).requires_grad_()
    result = []
    kept = kept_by(lambda: result.append(cpu_kernels.kernels().rms_norm(x, weight, 1e-5)))
    of_output = any(tensor.data_ptr() == result[0].data_ptr() for tensor in kept)
    assert of_output == (not trains and smallest >= 2.0**-10)
    assert of_output != any(tensor.data_ptr() == x.data_ptr() for tensor in kept)
    plain = x.detach().clone().requires_grad_()
    dy = drawn(5, 8)
    (torch.nn.functional.rms_norm(plain, (8,), weight.detach(), 1e-5) * dy).sum().backward()
    (result[0] * dy).sum().backward()
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-5, atol=1e-6)


def mlp_of(dtype: torch.dtype) -> tuple[torch.Tensor, list[Weights]]:
    def layer(inside: int, outside: int) -> Weights:
        down, up = drawn(4, inside).requires_grad_(), (drawn(outside, 4) * 0.1).requires_grad_()
        return Weights(drawn(outside, inside, dtype=dtype), None, down, up, 2.0)

    return drawn(7, 16, dtype=dtype).requires_grad_(), [layer(16, 40), layer(16, 40), layer(40, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_mlp_in_half_precision_keeps_nothing_of_its_width(dtype, monkeypatch):
    """Its gradients are those of one that keeps gate and up, bit for bit."""
    x, layers = mlp_of(dtype)
    leaves = [x, *(half for layer in layers for half in (layer.down, layer.up))]

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(lora_mlp.mlp(x, *layers).float().square().sum(), leaves))

    weights = {tensor.data_ptr() for layer in layers for tensor in (layer.weight, layer.down, layer.up)}
    wide = [t for t in kept_by(lambda: lora_mlp.mlp(x, *layers)) if t.shape == (7, 40) and t.data_ptr() not in weights]
    assert len(wide) == (2 if dtype == torch.float32 else 0)
    again = gradients()
    monkeypatch.setattr(lora_mlp, "AGAIN", ())
    assert all(map(torch.equal, again, gradients()))


def test_few_sizes_by_hand():
    """Eight from 512 on are 64 apart: 576, 640, ..., 1024; sixteen are 32 apart; up to 8 every number is one."""
    found = {513: 576, 576: 576, 577: 640, 1000: 1024, 1024: 1024, 1025: 1152, 8: 8, 9: 9, 17: 18}
    assert {count: few_sizes(count, 8) for count in found} == found
    assert [few_sizes(count, 16) for count in (513, 1000, 1, 31)] == [544, 1024, 1, 31]
    assert len({few_sizes(count, 8) for count in range(513, 1025)}) == 8
    assert all(count <= few_sizes(count, 8) <= count * 9 / 8 for count in range(1, 5000))


@pytest.mark.parametrize("lengths", [(37,), (37, 50, 3), (19, 19, 19)])
def test_attention_of_filled_documents_is_that_of_each_alone(lengths):
    """Outputs and derivatives to bfloat16's tolerance of float64's, whatever lies behind a document's end."""
    total = sum(lengths)
    q, k, v, dy = (drawn(1, heads, total, 16, dtype=torch.bfloat16) for heads in (4, 2, 2, 4))
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)

    def results(attend, inputs):
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = attend(*leaves)
        return [y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))]

    def exact(q, k, v):
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(*(x[:, :, a:b] for x in (q, k, v)), is_causal=True)
            for a, b in itertools.pairwise(bounds)
        ]
        return torch.cat(parts, dim=2)

    own = results(lambda q, k, v: cpu_kernels.kernels().attention(q, k, v, bounds, 0.25, None), (q, k, v))
    for one, other in zip(own, results(exact, [x.double() for x in (q, k, v)]), strict=True):
        assert float((one.double() - other).detach().norm() / other.detach().norm()) < 0.01


def test_a_cpu_s_row_is_filled_up_in_half_precision(monkeypatch):
    """33 tokens of two documents become 34, the last a document of its own; in float32, or elsewhere, nothing is added."""
    config = tiny_model("llama").config
    ids, positions = torch.arange(33)[None], torch.cat([torch.arange(20), torch.arange(13)])[None]
    bounds = torch.tensor([0, 20, 33], dtype=torch.int32)
    monkeypatch.setattr(config, "_attn_implementation_internal", varlen.NAME)
    filled = packed_inputs(config, ids, positions, bounds, half=True)
    assert filled["cu_seq_lens_q"].tolist() == [0, 20, 33, 34]
    assert filled["position_ids"][0, 30:].tolist() == [10, 11, 12, 0]
    assert filled["input_ids"].shape == (1, 34) and filled["max_length_q"] == 20
    assert packed_inputs(config, ids, positions, bounds)["input_ids"].shape == (1, 33)
    monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
    assert packed_inputs(config, ids, positions, bounds, half=True)["input_ids"].shape == (1, 33)
