"""What the CPU's functions do not keep for the backward pass: a norm's input, the wide tensors of an MLP in half precision."""

from __future__ import annotations

import pytest
import torch

from finetune.device import cpu_kernels
from finetune.device.elementwise import norm, norm_slope, norm_slope_by_output
from finetune.model import lora_mlp
from finetune.model.lora_product import Weights

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
