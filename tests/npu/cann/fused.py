"""What the fused operators that finetune uses compute, by torch_npu's documentation; arguments as in its schemas."""

from __future__ import annotations

import torch
from torch.nn import functional

_libraries: list[torch.library.Library] = []


def install() -> None:
    """In place of torch_npu's kernels; gradients are those of the formulas."""
    library = torch.library.Library("npu", "IMPL")
    _libraries.append(library)
    for kernel in (npu_rms_norm, npu_rotary_mul, npu_swiglu, npu_fusion_attention):
        for key in ("AutogradPrivateUse1", "PrivateUse1"):
            library.impl(kernel.__name__, kernel, key, allow_override=True)


def npu_rms_norm(input, gamma, epsilon=1e-6):
    """x / rms(x) * gamma, and 1 / rms(x) in float32."""
    inverse = torch.rsqrt(input.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (input.float() * inverse).to(input.dtype) * gamma, inverse


def npu_swiglu(input, dim=-1):
    gate, up = input.chunk(2, dim=dim)
    return functional.silu(gate) * up


def npu_rotary_mul(input, r1, r2, rotary_mode="half", rotate=None):
    """r1 and r2 are the cosines and sines; "half" pairs element i with i + size / 2."""
    if rotary_mode != "half" or rotate is not None:
        raise NotImplementedError(f"rotary_mode {rotary_mode!r}")
    first, second = input.chunk(2, dim=-1)
    return input * r1 + torch.cat((-second, first), dim=-1) * r2


def npu_fusion_attention(
    query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, scale=1.0, keep_prob=1.0,
    pre_tockens=2147483647, next_tockens=2147483647, inner_precise=0, prefix=None, actual_seq_qlen=None,
    actual_seq_kvlen=None, sparse_mode=0, gen_mask_parallel=True, sync=False, softmax_layout="", sink=None,
    dropout_mask=None, seed=0, offset=0,
):  # fmt: skip
    """Layouts BSND, BNSD and TND (sequences one after another; actual_seq_*len are their ends). True in a mask: left out.

    sparse_mode 0: atten_mask; 2: causal, aligned at the first token; 3: causal, aligned at the last.
    """
    nothing = query.new_zeros(())
    if input_layout == "TND":
        ends = zip(actual_seq_qlen, actual_seq_kvlen, strict=True)
        outputs, start, key_start = [], 0, 0
        for end, key_end in ends:
            parts = (query[None, start:end], key[None, key_start:key_end], value[None, key_start:key_end])
            layouts = {"scale": scale, "keep_prob": keep_prob, "sparse_mode": sparse_mode}
            outputs.append(npu_fusion_attention(*parts, head_num, "BSND", **layouts)[0][0])
            start, key_start = end, key_end
        return torch.cat(outputs), nothing, nothing, nothing, 0, 0, 0
    if input_layout not in ("BSND", "BNSD"):
        raise NotImplementedError(f"input_layout {input_layout!r}")
    if input_layout == "BSND":
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    groups = query.size(1) // key.size(1)
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    scores = query @ key.transpose(-1, -2) * scale  # (B, N, queries, keys)
    queries, keys = scores.shape[-2:]
    if sparse_mode in (2, 3):
        last = 0 if sparse_mode == 2 else keys - queries
        atten_mask = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(last).logical_not()
    if atten_mask is not None:
        scores = scores.masked_fill(atten_mask.bool(), torch.finfo(scores.dtype).min)
    weights = functional.dropout(scores.float().softmax(-1).to(query.dtype), 1.0 - keep_prob)
    output = weights @ value
    output = output.transpose(1, 2) if input_layout == "BSND" else output
    return output, nothing, nothing, nothing, 0, 0, 0
