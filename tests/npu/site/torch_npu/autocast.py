"""torch.autocast("npu"): the ops that torch_npu 2.13.0 registers for it, with what torch's table does to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from torch_npu.border import is_npu

KEY = "AutocastPrivateUse1"
LOWER = """_convolution addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_tbc
    conv_transpose1d conv_transpose2d.input conv_transpose3d.input convolution einsum gru_cell linalg_multi_dot linear
    lstm_cell matmul mm mv prelu rnn_relu_cell rnn_tanh_cell scaled_dot_product_attention"""
FLOAT32 = """acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss cosine_similarity cumprod cumsum
    dist erfinv exp expm1 group_norm hinge_embedding_loss huber_loss kl_div l1_loss layer_norm
    linalg_matrix_norm linalg_vector_norm log log10 log1p log2 log_softmax.int logsumexp margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss native_layer_norm nll_loss nll_loss2d norm.Scalar norm.ScalarOpt_dim
    nuclear_norm nuclear_norm.dim pdist poisson_nll_loss pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prod prod.dim_int
    reciprocal renorm rsqrt sinh smooth_l1_loss soft_margin_loss softmax.int softplus sum sum.dim_IntList tan
    triplet_margin_loss"""
WIDEST = "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot"


def install(library: torch.library.Library) -> None:
    for names, dtype_of in ((LOWER, _lower), (FLOAT32, _float32), (WIDEST, _widest)):
        for name in names.split():
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, _kernel(op, dtype_of), KEY)


def _kernel(op: Any, dtype_of: Callable[[Iterator[torch.Tensor]], torch.dtype | None]) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            dtype = dtype_of(_floats(args))
            if dtype is not None:
                args = tuple(_cast(value, dtype) for value in args)
                kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
            return op(*args, **kwargs)

    return kernel


def _lower(tensors: Iterator[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype("npu")


def _float32(tensors: Iterator[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: Iterator[torch.Tensor]) -> torch.dtype | None:
    found = [tensor.dtype for tensor in tensors]
    return torch.float32 if torch.float32 in found else next(iter(found), None)


def _floats(args: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in args:
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor) and item.is_floating_point():
                yield item


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if is_npu(value) and value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        return type(value)(_cast(item, dtype) for item in value)
    return value
