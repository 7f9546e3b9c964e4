"""Memory, views, gradients, optimizers, autocast: what a tensor on the device does."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

from tests.npu.checks.common import NPU, draw


def check_views_share_memory() -> None:
    base = torch.zeros(3, 4, device=NPU)
    views = [base[1:], base.t(), base.view(-1), base.chunk(2, 1)[1], base.unfold(1, 2, 1), base.detach(), base[:, 2]]
    assert {view.untyped_storage().data_ptr() for view in views} == {base.untyped_storage().data_ptr()}
    assert [view.storage_offset() for view in views] == [4, 0, 0, 2, 0, 0, 2]
    base[1:].add_(1)
    base[:, 2] = 5
    base.t()[0] = 7
    assert base.tolist() == [[7, 0, 5, 0], [7, 1, 5, 1], [7, 1, 5, 1]]
    assert base.contiguous() is base
    assert torch.ones(2, device=NPU).view(torch.int32).tolist() == [1065353216] * 2


def check_in_place_and_out() -> None:
    value = torch.arange(4.0, device=NPU)
    assert value.mul_(2) is value
    resized, fitting = torch.empty(0, device=NPU), torch.empty(4, device=NPU)
    assert torch.add(value, 1, out=resized) is resized
    assert torch.mul(value, value, out=fitting) is fitting
    assert (resized.tolist(), fitting.tolist()) == ([1, 3, 5, 7], [0, 4, 16, 36])
    assert torch.zeros(1, 0, 4, device=NPU).add_(1).zero_().shape == (1, 0, 4)
    pinned = torch.empty_like(value.view(2, 2).t(), device="cpu", pin_memory=True)
    assert (pinned.device.type, pinned.stride()) == ("cpu", (1, 2))
    assert torch.zeros_like(value, device="npu:1").device == torch.device("npu:1")
    value.resize_(2, 3)[1] = 9
    assert value.flatten()[3:].tolist() == [9, 9, 9]
    assert copy.deepcopy(value).device == pickle.loads(pickle.dumps(value)).device == torch.device(NPU)


def check_gradients_are_the_cpus() -> None:
    torch.manual_seed(1)
    plain = torch.nn.Sequential(
        torch.nn.Embedding(11, 8), torch.nn.LayerNorm(8), torch.nn.Conv1d(5, 5, 3, padding=1), torch.nn.GELU(),
        torch.nn.Linear(8, 11),
    )  # fmt: skip
    there = copy.deepcopy(plain).to(NPU)
    ids = torch.arange(10).view(2, 5)
    losses = []
    for model, device in ((plain, "cpu"), (there, NPU)):
        loss = F.cross_entropy(model(ids.to(device)).flatten(0, 1), ids.flatten().to(device), reduction="sum")
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-5
    for one, other in zip(plain.parameters(), there.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad.cpu(), atol=1e-6)


def check_optimizers_are_the_cpus() -> None:
    for settings in ({"foreach": True}, {"fused": True}, {"foreach": False}):
        found = []
        for device in ("cpu", NPU):
            weight = torch.nn.Parameter(draw(5).to(device))
            optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1, **settings)
            for step in range(3):
                weight.grad = draw(5, seed=step).to(device)
                torch.nn.utils.clip_grad_norm_([weight], 1.0)
                optimizer.step()
            found.append(weight.detach().cpu())
        assert torch.allclose(*found, atol=1e-6), settings


def check_autocast() -> None:
    weight = torch.nn.Parameter(draw(4, 4).to(NPU))
    value = draw(2, 4).to(NPU)
    with torch.autocast("npu", torch.bfloat16):
        product = F.linear(value, weight)
        shares = product.softmax(-1)
        sums = torch.cat([product, value])
        with torch.autocast("npu", enabled=False):
            plain = value @ weight
    assert [t.dtype for t in (product, shares, sums, plain)] == [torch.bfloat16, *[torch.float32] * 3]
    product.float().pow(2).sum().backward()
    assert weight.grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        there = F.linear(value.cpu(), weight.detach().cpu())
    assert torch.equal(product.cpu(), there)


def check_module_to_keeps_parameters() -> None:
    module = torch.nn.Linear(2, 2)
    ids = [id(parameter) for parameter in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module.to(NPU)
    before = module.bias.detach().clone()
    module(torch.ones(1, 2, device=NPU)).sum().backward()
    optimizer.step()
    assert ids == [id(parameter) for parameter in module.parameters()]
    assert torch.allclose(module.bias, before - 1)
    module.to("cpu")
    assert module.weight.device.type == "cpu"


def check_files() -> None:
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        value, file = torch.arange(6.0, device=NPU).view(2, 3), Path(folder) / "x"
        save_file({"x": value}, file)
        for device in (NPU, "cpu"):
            loaded = load_file(file, device=device)["x"]
            assert (str(loaded.device), loaded.tolist()) == (device, [[0, 1, 2], [3, 4, 5]])
        torch.save({"x": value, "y": torch.ones(1)}, file)
        assert torch.load(file)["x"].device == torch.device(NPU)
        assert torch.load(file, map_location=NPU)["y"].device == torch.device(NPU)
        assert torch.load(file, map_location="cpu")["x"].tolist() == value.tolist()


def check_attention() -> None:
    query, key, value = draw(2, 4, 6, 8), draw(2, 2, 6, 8, seed=1), draw(2, 2, 6, 8, seed=2)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    bias = torch.zeros(6, 6).masked_fill(~seen, -1e9)
    for settings in ({}, {"is_causal": True}, {"attn_mask": seen}, {"attn_mask": bias}):
        found = []
        for device in ("cpu", NPU):
            own = [tensor.to(device, copy=True).requires_grad_() for tensor in (query, key, value)]
            there = {name: item.to(device) if name == "attn_mask" else item for name, item in settings.items()}
            out = F.scaled_dot_product_attention(*own, enable_gqa=True, **there)
            out.pow(2).sum().backward()
            found.append([out.detach().cpu(), *(tensor.grad.cpu() for tensor in own)])
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True)), settings
    dropped = F.scaled_dot_product_attention(*(t.to(NPU) for t in (query, query, query)), dropout_p=0.5)
    assert dropped.shape == query.shape
