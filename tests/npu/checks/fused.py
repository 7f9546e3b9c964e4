"""Fused ops and the fused optimizer, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.npu.checks.common import NPU, draw


def check_fused_norm_rotation_and_gate() -> None:
    import torch_npu

    value, gain = draw(2, 3, 8), draw(8, seed=1)
    out, rstd = torch_npu.npu_rms_norm(value.to(NPU), gain.to(NPU), epsilon=1e-5)
    assert torch.allclose(out.cpu(), F.rms_norm(value, (8,), gain, 1e-5), atol=1e-6)
    assert rstd.shape == (2, 3, 1)
    gate = torch_npu.npu_swiglu(value.to(NPU))
    assert torch.allclose(gate.cpu(), F.silu(value[..., :4]) * value[..., 4:], atol=1e-6)
    angle = draw(1, 1, 3, 4, seed=2)
    turned = torch.view_as_real(
        torch.polar(torch.ones_like(angle), angle) * torch.view_as_complex(value.view(1, 2, 3, 4, 2))
    )
    doubled = angle.repeat_interleave(2, -1)
    pairs = torch_npu.npu_rotary_mul(value[None].to(NPU), doubled.cos().to(NPU), doubled.sin().to(NPU), "interleave")
    assert torch.allclose(pairs.cpu(), turned.flatten(-2), atol=1e-6)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # pairs (i, i + 1) as (i, i + D/2)
    twice = torch.cat([angle, angle], -1)
    halves = torch_npu.npu_rotary_mul(value[None][..., order].to(NPU), twice.cos().to(NPU), twice.sin().to(NPU))
    assert torch.allclose(halves.cpu(), turned.flatten(-2)[..., order], atol=1e-6)
    with pytest.raises(RuntimeError, match="npu_rotary_mul: shapes"):
        torch_npu.npu_rotary_mul(value.to(NPU), value.to(NPU), value.to(NPU))
    with pytest.raises(RuntimeError, match="npu_rms_norm"):
        torch_npu.npu_rms_norm(value.to(NPU), gain.to(NPU).half())


def check_fusion_attention() -> None:
    import torch_npu

    fused = torch_npu.npu_fusion_attention
    query, key, value = draw(1, 4, 9, 8), draw(1, 2, 9, 8, seed=1), draw(1, 2, 9, 8, seed=2)
    corner = torch.ones(2048, 2048, dtype=torch.bool, device=NPU).triu(1)
    plain = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    own = [tensor.to(NPU).transpose(1, 2).requires_grad_() for tensor in (query, key, value)]
    out = fused(*own, 4, "BSND", atten_mask=corner, sparse_mode=3, scale=8**-0.5)[0]
    assert torch.allclose(out.transpose(1, 2).cpu(), plain, atol=1e-5)
    out.sum().backward()
    assert own[0].grad.shape == (1, 9, 4, 8)
    last = fused(
        query[:, :, -2:].to(NPU), key.to(NPU), value.to(NPU), 4, "BNSD", atten_mask=corner, sparse_mode=3, scale=8**-0.5
    )
    assert torch.allclose(last[0].cpu(), plain[:, :, -2:], atol=1e-5)
    packed = [tensor[0].transpose(0, 1).to(NPU) for tensor in (query, key, value)]  # (T, N, D)
    ends = (4, 9)
    documents = fused(
        *packed, 4, "TND", atten_mask=corner, sparse_mode=3, scale=8**-0.5, actual_seq_qlen=ends, actual_seq_kvlen=ends
    )[0]
    for part in (slice(0, 4), slice(4, 9)):
        alone = F.scaled_dot_product_attention(
            *(tensor[:, :, part] for tensor in (query, key, value)), is_causal=True, enable_gqa=True
        )
        assert torch.allclose(documents[part].cpu(), alone[0].transpose(0, 1), atol=1e-5)
    hidden = torch.zeros(9, 9, dtype=torch.bool, device=NPU)
    hidden[:, 3] = True  # True hides
    some = fused(*(tensor.to(NPU) for tensor in (query, key, value)), 4, "BNSD", atten_mask=hidden, scale=8**-0.5)[0]
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=~hidden.cpu(), enable_gqa=True)
    assert torch.allclose(some.cpu(), seen, atol=1e-5)
    with pytest.raises(RuntimeError, match="TND with ends"):
        fused(*packed, 4, "TND", actual_seq_qlen=(4, 8), actual_seq_kvlen=(4, 8))
    with pytest.raises(RuntimeError, match="must be \\(2048, 2048\\)"):
        fused(*own, 4, "BSND", atten_mask=hidden, sparse_mode=3)


def check_fused_adamw() -> None:
    import torch_npu

    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    sizes = ((3, 2), (5,), (4,))
    plain = [torch.nn.Parameter(draw(*size)) for size in sizes]
    there = [torch.nn.Parameter(draw(*size).to(NPU)) for size in sizes]
    one, other = torch.optim.AdamW(plain, **settings), torch_npu.optim.NpuFusedAdamW(there, **settings)

    def gradients(step: int) -> None:
        """Of all but the last parameter, which therefore never moves."""
        for mine, its in zip(plain[:2], there[:2], strict=True):
            mine.grad = draw(*mine.shape, seed=step)
            its.grad = draw(*mine.shape, seed=step).to(NPU) if its.grad is None else its.grad.copy_(mine.grad)

    for step in range(3):
        gradients(step)
        one.step()
        other.step()
        other.zero_grad()
    assert [int(parameter.grad.abs().sum()) for parameter in there[:2]] == [0, 0]
    assert all(torch.allclose(mine, its.cpu(), atol=1e-6) for mine, its in zip(plain, there, strict=True))
    assert other.state[there[0]]["step"] == 3
    again = torch_npu.optim.NpuFusedAdamW(there[:2], **settings)
    again.load_state_dict({"state": other.state_dict()["state"], "param_groups": again.state_dict()["param_groups"]})
    for parameter in there:
        parameter.grad = None
    gradients(4)
    one.step()
    again.step()
    assert all(torch.allclose(mine, its.cpu(), atol=1e-6) for mine, its in zip(plain, there, strict=True))
    with pytest.raises(ValueError, match="set_to_none"):
        other.zero_grad(set_to_none=True)
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16, device=NPU))
    half.grad = torch.ones_like(half)
    with pytest.raises(TypeError, match="either float32 or float16"):
        torch_npu.optim.NpuFusedAdamW([half]).step()
    bucketed = torch.nn.Parameter(torch.ones(2, device=NPU))
    bucketed.grad = torch.ones(5, device=NPU)[:2]
    with pytest.raises(RuntimeError, match="storages of their own"):
        torch_npu.optim.NpuFusedAdamW([bucketed]).step()
