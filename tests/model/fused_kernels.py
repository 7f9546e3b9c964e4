"""Kernels for the CPU that are none of torch's ops put together: forward and backward written out by hand."""

from __future__ import annotations

import torch

from finetune.device.kernels import Kernels


class _RmsNorm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + e)^(-1/2); dx = r (g w - x r^2 mean(x g w)), dw = sum of g x r."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        root = torch.rsqrt(x.float().square().sum(-1, keepdim=True) / x.shape[-1] + epsilon)
        ctx.save_for_backward(x, weight, root)
        return (x.float() * root * weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx, slope):
        x, weight, root = ctx.saved_tensors
        wide, through = x.float(), slope.float() * weight.float()
        dx = root * (through - wide * root.square() * (wide * through).mean(-1, keepdim=True))
        dw = (slope.float() * wide * root).flatten(0, -2).sum(0)
        return dx.to(x.dtype), dw.to(weight.dtype), None


class _SwiGlu(torch.autograd.Function):
    """y = a s(a) b; da = g b s(a) (1 + a (1 - s(a))), db = g a s(a)."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return (gate.float() * torch.sigmoid(gate.float()) * up.float()).to(gate.dtype)

    @staticmethod
    def backward(ctx, slope):
        gate, up = (tensor.float() for tensor in ctx.saved_tensors)
        share, slope_ = torch.sigmoid(gate), slope.float()
        through = slope_ * up * share * (1 + gate * (1 - share))
        return through.to(slope.dtype), (slope_ * gate * share).to(slope.dtype)


class _Turn(torch.autograd.Function):
    """Halves (a, b) to (a c1 - b s1, b c2 + a s2); backward is the transposed of that."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        out = torch.empty_like(x)
        out[..., :half] = first * cos[..., :half] - second * sin[..., :half]
        out[..., half:] = second * cos[..., half:] + first * sin[..., half:]
        return out

    @staticmethod
    def backward(ctx, slope):
        cos, sin = ctx.saved_tensors
        half = slope.shape[-1] // 2
        first, second = slope[..., :half], slope[..., half:]
        out = torch.empty_like(slope)
        out[..., :half] = first * cos[..., :half] + second * sin[..., half:]
        out[..., half:] = second * cos[..., half:] - first * sin[..., :half]
        return out, None, None


def rotary(q, k, cos, sin):
    return _Turn.apply(q, cos, sin), _Turn.apply(k, cos, sin)


KERNELS = Kernels(_RmsNorm.apply, _SwiGlu.apply, rotary)
