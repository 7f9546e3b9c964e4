"""What the emulated device does, in one process of its own: `python -m tests.npu.checks` with tests/npu/site on PYTHONPATH.

Prints {name of a check: "" or its traceback} as JSON. torch_npu is imported by `main` only: in the process of the tests the
functions are looked at, not run.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import pickle
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NPU = "npu:0"


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Filled, at the end, with what was counted inside."""
    import torch_npu

    before, found = torch_npu.emulator.counts(), {}
    yield found
    found |= {kind: number - before[kind] for kind, number in torch_npu.emulator.counts().items()}


@contextmanager
def on_soc(name: str) -> Iterator[None]:
    import torch_npu

    before, torch_npu.hardware.SOC = torch_npu.hardware.SOC, name
    try:
        yield
    finally:
        torch_npu.hardware.SOC = before


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def check_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = torch.rand(3, device=NPU)
    assert torch.equal(torch.get_rng_state(), before)
    state = torch.npu.get_rng_state()
    assert (state.dtype, tuple(state.shape)) == (torch.uint8, (16,))
    second, third = F.dropout(torch.ones(64, device=NPU)), torch.randn(2, device=NPU)
    torch.npu.set_rng_state(state)
    assert torch.equal(F.dropout(torch.ones(64, device=NPU)), second)
    assert torch.equal(torch.randn(2, device=NPU), third)
    torch.manual_seed(5)
    with torch.random.fork_rng(devices=[0], device_type="npu"):
        torch.rand(7, device=NPU)
    torch.rand(3)  # the CPU's moves nothing here
    assert torch.equal(torch.rand(3, device=NPU), first)
    states = torch.npu.get_rng_state_all()
    assert len(states) == torch.npu.device_count() == 2
    torch.npu.set_rng_state_all(states)
    with pytest.raises(RuntimeError, match="Expected a 'npu' device type for generator"):
        torch.rand(3, device=NPU, generator=torch.Generator())


def check_dropout_replays_under_checkpointing() -> None:
    weight = torch.nn.Parameter(draw(8, 8).to(NPU))

    def block(value: torch.Tensor) -> torch.Tensor:
        return F.dropout(value @ weight, 0.5)

    found = []
    for again in (False, True):
        torch.manual_seed(2)
        value = torch.ones(4, 8, device=NPU)
        out = checkpoint(block, block(value), use_reentrant=False) if again else block(block(value))
        out.sum().backward()
        found.append((out.detach(), weight.grad))
        weight.grad = None
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert 0 < int((found[0][0] == 0).sum()) < 32


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


def check_mixing_raises() -> None:
    there, here = torch.ones(2, 2, device=NPU), torch.ones(2, 2)
    for mixed in (
        lambda: there + here,
        lambda: there @ here,
        lambda: there.add_(here),
        lambda: F.embedding(torch.tensor([1]), there),
        lambda: F.cross_entropy(there, torch.tensor([0, 1])),
        lambda: torch.cat([there, here]),
        lambda: torch.where(here > 0, there, there),
        lambda: there + torch.ones(2, 2, device="npu:1"),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (there * torch.tensor(2.0)).sum().item() == 8  # without dimensions: as everywhere in torch
    assert there[torch.tensor([1])].shape == (1, 2)
    with pytest.raises(TypeError, match="npu"):
        there.numpy()


def check_float64_raises() -> None:
    there = torch.ones(2, device=NPU)
    for wide in (
        lambda: there.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device=NPU),
        lambda: torch.ones(2, dtype=torch.float64).to(NPU),
        lambda: there.sum(dtype=torch.float64),
        lambda: there.to("cpu", torch.float64),
        lambda: torch.arange(2, dtype=torch.float64, device=NPU),
        lambda: there.to(torch.complex128),
        lambda: there.to(torch.float8_e4m3fn),
    ):
        with pytest.raises(RuntimeError, match="is not to be had on"):
            wide()
    assert there.cpu().double().sum().item() == 2.0
    assert ((there * 0.5).dtype, (there.sum() * 0.5).dtype) == (torch.float32, torch.float32)  # Python's own numbers


def check_bfloat16_by_soc() -> None:
    there = torch.ones(2, 2, dtype=torch.bfloat16, device=NPU)
    supported = {"Ascend910B3", "Ascend910B4-1", "Ascend910_9391", "Ascend310B1", "Ascend950PR_9599"}
    for soc in (*supported, "Ascend910A", "Ascend910B", "Ascend910ProA", "Ascend910PremiumA", "Ascend310P3"):
        with on_soc(soc):
            assert torch.npu.is_bf16_supported() == (soc in supported)
            assert torch.npu.get_device_name() == soc
            if soc in supported:
                assert (there @ there).sum().item() == 8
                continue
            assert torch.bfloat16 not in torch.npu.get_amp_supported_dtype()
            for half in (lambda: there @ there, lambda: there.float(), lambda: torch.ones(2, device=NPU).bfloat16()):
                with pytest.raises(RuntimeError, match="bfloat16 is not to be had on Ascend"):
                    half()
            assert there.cpu().sum().item() == torch.ones(2, 2).bfloat16().to(NPU).cpu().sum().item() == 4
            assert (torch.ones(2, 2, device=NPU).half() @ torch.ones(2, 2, device=NPU).half()).sum().item() == 8

    for soc in ("Ascend910C", "910B3", ""):
        with on_soc(soc), pytest.raises(RuntimeError, match="Unsupported soc version"):
            torch.ones(1, device=NPU)


def check_other_libraries_kernels_raise() -> None:
    library = torch.library.Library("foreign", "FRAGMENT")
    library.define("quantize(Tensor x) -> Tensor")
    library.impl("quantize", lambda x: x, "CPU")
    assert torch.ops.foreign.quantize(torch.ones(1)).item() == 1
    with pytest.raises(NotImplementedError, match="foreign::quantize"):
        torch.ops.foreign.quantize(torch.ones(1, device=NPU))


def check_syncs_are_counted() -> None:
    value = torch.arange(6, device=NPU)
    mask = value > 2
    asking = {
        "item": lambda: value[0].item(), "bool": lambda: bool(mask[0]), "float": lambda: float(value[1]),
        "cpu": lambda: value.cpu(), "tolist": lambda: value.tolist(), "nonzero": lambda: mask.nonzero(),
        "index": lambda: value[mask], "masked_select": lambda: value.masked_select(mask), "unique": lambda: value.unique(),
        "equal": lambda: torch.equal(value, value), "index_put": lambda: value.clone().index_put_((mask,), value[:3]),
        "repeat_interleave": lambda: torch.repeat_interleave(value), "bincount": lambda: torch.bincount(value),
        "copy_": lambda: torch.ones(6).copy_(value),
    }  # fmt: skip
    for name, ask in asking.items():
        with counting() as found:
            ask()
        assert found == {"syncs": 1, "fallbacks": 0, "uploads": 0}, (name, found)
    with counting() as found:
        (
            value[value.flip(0)],
            value + 1,
            value.view(2, 3).sum(0),
            value.masked_fill(mask, 0),
            torch.where(mask, value, 0),
        )
        torch.npu.synchronize()
        torch.cat([value, value]).sort()
        value.to(NPU), value.float().to(torch.int32), torch.zeros(3, device=NPU), value.clone()
    assert found == {"syncs": 0, "fallbacks": 0, "uploads": 0}, found


def check_uploads_and_fallbacks_are_counted() -> None:
    with counting() as found:
        value = torch.eye(3).to(NPU)
        value.copy_(torch.ones(3))
        torch.tensor([1.0], device=NPU)
    assert found == {"syncs": 0, "fallbacks": 0, "uploads": 3}
    with counting() as found:
        torch.linalg.matrix_exp(value)
        torch.ones(3, device=NPU).digamma()
    assert found["fallbacks"] == 2


def check_sites_tell_the_line() -> None:
    import torch_npu

    torch_npu.emulator.reset()
    value = torch.arange(6, device=NPU)
    for _ in range(3):
        int(value.sum())
    sites = torch_npu.emulator.sites("syncs")
    (site, times), *others = sites.items()
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "int(value.sum" in text)
    assert (times, others) == (3, [])
    assert site == ("syncs", "_local_scalar_dense", f"checks.py:{line}", "")
    code = "def count(x):\n    return x.nonzero()\n"
    ours = {"__name__": "finetune.step"}
    exec(compile(code, "/anywhere/finetune/step.py", "exec"), ours)
    ours["count"](value)
    assert {site.ours for site in torch_npu.emulator.sites()} == {"", "finetune/step.py:2"}


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


def check_memory_is_accounted() -> None:
    before = torch.npu.memory_allocated()
    held = torch.ones(256, 256, device=NPU)
    view = held[:2]
    doubled = held * 2
    assert torch.npu.memory_allocated() - before == 2 * 4 * 256 * 256
    del held, doubled
    assert torch.npu.memory_allocated() - before == 4 * 256 * 256
    assert view.sum().item() == 512
    assert torch.npu.max_memory_allocated() - before >= 2 * 4 * 256 * 256
    del view
    torch.npu.reset_peak_memory_stats()
    assert torch.npu.max_memory_allocated() == torch.npu.memory_allocated() == before
    free, total = torch.npu.mem_get_info()
    assert total - free == before


def check_devices() -> None:
    import torch_npu

    assert torch.ones(1, device="npu").device == torch.device(NPU)
    with torch.npu.device(1):
        assert torch.ones(1, device="npu").device == torch.device("npu:1")
    assert torch.npu.current_device() == 0
    moved = torch.ones(2, device="npu:1", requires_grad=True)
    moved.to(NPU).sum().backward()
    assert moved.grad.device == torch.device("npu:1")
    for index in ("npu:2", "npu:7"):
        with pytest.raises(RuntimeError, match="no device"):
            torch.ones(1, device=index)
    visible = torch_npu.hardware.visible_devices
    cases = {None: 8, "": 0, "0": 1, "2,3": 2, "0,1,9": 2, "1,0": 0, "0,1,x": 2}
    assert {listed: visible(8, listed) for listed in cases} == cases


def check_libraries_find_it() -> None:
    from accelerate import Accelerator
    from accelerate.utils import is_npu_available

    assert importlib.metadata.version("torch_npu") == "2.13.0+emul"
    assert importlib.metadata.requires("torch_npu") == ["torch==2.13.0.*"]
    assert is_npu_available()
    assert Accelerator().device == torch.device("npu")
    assert (torch.accelerator.current_accelerator(), torch.npu.is_available()) == (torch.device("npu"), True)
    torch.npu.config.allow_internal_format = False
    torch.npu.set_compile_mode(jit_compile=False)
    assert torch.npu.options == {"ALLOW_INTERNAL_FORMAT": "disable", "jit_compile": False}
    with pytest.raises(AttributeError):
        torch.npu.config.allow_internal_format  # noqa: B018


def check_collectives() -> None:
    import torch.distributed as dist

    dist.init_process_group("hccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        value = torch.arange(4.0, device=NPU)
        dist.all_reduce(value, op=dist.ReduceOp.AVG)
        dist.broadcast(value, 0)
        gathered, part = torch.zeros(4, device=NPU), torch.zeros(4, device=NPU)
        dist.all_gather_single(gathered, value)
        dist.reduce_scatter_single(part, value)
        parts = [torch.zeros(4, device=NPU)]
        dist.all_gather(parts, value)
        dist.barrier()
        assert dist.get_backend() == "hccl"
        assert [tensor.tolist() for tensor in (value, gathered, part, *parts)] == [[0, 1, 2, 3]] * 4
    finally:
        dist.destroy_process_group()


CHECKS = {name.removeprefix("check_"): function for name, function in globals().items() if name.startswith("check_")}


def main() -> None:
    import torch_npu  # noqa: F401

    torch.set_num_threads(1)
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
