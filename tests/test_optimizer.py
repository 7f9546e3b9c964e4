"""Steps of every optimizer by hand, the groups of its parameters, and what is refused."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from finetune.device import DEVICES
from finetune.engine import check_training
from finetune.errors import RecipeError
from finetune.groups import group_lines, group_rates, parameter_groups
from finetune.optimizer import OPTIMIZERS, end_training, evaluation_weights
from finetune.recipe import TrainSection

LORA = "base_model.model.layers.0.q_proj"
SHAPES = {
    f"{LORA}.lora_A.default.weight": (2, 4),
    f"{LORA}.lora_B.default.weight": (3, 2),
    f"{LORA}.lora_magnitude_vector.default.weight": (3,),
    "base_model.model.lm_head.modules_to_save.default.weight": (5, 4),
}
A, B, MAGNITUDE, HEAD = SHAPES


ON_CPU = [optim for optim, kind in OPTIMIZERS.items() if "cpu" in kind.devices]


def needs(optim: str) -> Any:
    """`optim`, left out where its package is not installed (it is in the extra `optim`)."""
    package = OPTIMIZERS[optim].package
    missing = package is not None and importlib.util.find_spec(package[1]) is None
    return pytest.param(optim, marks=pytest.mark.skipif(missing, reason=f"{optim}: its package is not installed"))


def section(optim: str = "adamw_torch", **more: Any) -> TrainSection:
    constant = {"lr_scheduler_type": "constant"} if optim == "schedule_free_adamw" else {}
    return TrainSection(**{"max_steps": 9, "optim": optim, "learning_rate": 0.01} | constant | more)


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()}


def give_gradients(named: dict[str, nn.Parameter], step: int) -> None:
    for index, parameter in enumerate(named.values()):
        generator = torch.Generator().manual_seed(100 * step + index)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def made(named: dict[str, nn.Parameter], section: TrainSection) -> Any:
    return OPTIMIZERS[section.optim].build(parameter_groups(named.items(), section), section)


def one(value: list[float] | list[list[float]], optim: str, name: str = A, **more: Any) -> tuple[nn.Parameter, Any]:
    """A single parameter in float64 and its optimizer."""
    parameter = nn.Parameter(torch.tensor(value, dtype=torch.float64))
    return parameter, made({name: parameter}, section(optim, **more))


def test_adamw_by_hand():
    """Three steps of AdamW (arXiv 1711.05101, algorithm 2) at rate 0.1, decay 0.5: p <- p (1 - 0.05), then
    m = 0.9 m + 0.1 g, v = 0.99 v + 0.01 g^2, p <- p - 0.1 (m / (1 - 0.9^t)) / (sqrt(v / (1 - 0.99^t)) + e)."""
    parameter, optimizer = one([[2.0]], "adamw_torch", learning_rate=0.1, weight_decay=0.5, adam_beta2=0.99)
    p, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate((1.0, -3.0, 0.5), start=1):
        p *= 1 - 0.1 * 0.5
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        p -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
        parameter.grad = torch.tensor([[g]], dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("optim", [needs("adamw_torch_fused"), needs("adamw_8bit")])
def test_other_adamws_are_adamw(optim):
    """Fused: the same up to rounding. 8 bits: for tensors below `min_8bit_size` the state has 32."""
    plain, other = parameters(), parameters()
    settings = {"weight_decay": 0.1, "adam_beta2": 0.98}
    first, second = made(plain, section(**settings)), made(other, section(optim, **settings))
    for step in range(5):
        for named, optimizer in ((plain, first), (other, second)):
            give_gradients(named, step)
            optimizer.step()
    assert all(torch.allclose(plain[name], other[name], rtol=0, atol=1e-6) for name in SHAPES)


@pytest.mark.parametrize("optim", [needs("lion")])
def test_lion_by_hand(optim):
    """arXiv 2302.06675, algorithm 2, rate 1/8, decay 1/2, betas 1/2 and 3/4, so that all numbers are exact.

    p = (4, 4), g = (1, -2): p <- p (1 - 1/16) = 3.75; the sign of 0 / 2 + g / 2 is (1, -1): p = (3.625, 3.875);
    m = g / 4 = (0.25, -0.5). Then g = (-0.125, 4): p <- p 15/16 = (3.3984375, 3.6328125); the sign of
    m / 2 + g / 2 = (0.0625, 1.75) is (1, 1): p = (3.2734375, 3.5078125)."""
    args = {"beta1": 0.5, "beta2": 0.75}
    parameter, optimizer = one([[4.0, 4.0]], optim, learning_rate=0.125, weight_decay=0.5, optim_args=args)
    for gradient in ([1.0, -2.0], [-0.125, 4.0]):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert parameter.tolist() == [[3.2734375, 3.5078125]]


def test_adafactor_by_hand():
    """arXiv 1804.04235, algorithm 4, first step: its beta is 1 - 1^-0.8 = 0, so that the second moments are the
    gradient's own. g = [[1, 2], [2, 4]]: rows' means of g^2 are 2.5 and 10, columns' 2.5 and 10, and
    row x column / mean of rows = [[1, 4], [4, 16]] = g^2 exactly. So the update is g / |g| = 1, its root mean square
    1 is not clipped at 1, and p moves by the rate, whatever its own size."""
    parameter, optimizer = one([[0.0, 7.0], [-3.0, 1.0]], "adafactor", learning_rate=0.5)
    parameter.grad = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([[-0.5, 6.5], [-3.5, 0.5]], dtype=torch.float64)
    assert torch.allclose(parameter, expected, rtol=0, atol=1e-12)


def test_muon_for_lora_matrices_and_adamw_for_the_rest():
    """As torch's Muon on A and B beside torch's AdamW on magnitude and head, bit for bit."""
    named, apart = parameters(), parameters()
    optimizer = made(named, section("muon", weight_decay=0.1))
    assert [(group["state"], len(group["params"])) for group in optimizer.param_groups] == [
        ("muon", 2), ("adamw", 1), ("adamw", 1),
    ]  # fmt: skip
    settings = {"lr": 0.01, "weight_decay": 0.1}
    both = [
        torch.optim.Muon([apart[A], apart[B]], **settings, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": [apart[MAGNITUDE]], "weight_decay": 0.0}, {"params": [apart[HEAD]]}], **settings),
    ]
    for step in range(4):
        give_gradients(named, step)
        optimizer.step()
        give_gradients(apart, step)
        for part in both:
            part.step()
    assert all(torch.equal(named[name], apart[name]) for name in SHAPES)


def test_muon_s_step_is_orthogonal():
    """Every singular value of a first step lies within 0.2 sqrt(longer side) x rate x (0.6, 1.3), though the gradient's
    are 100 and 10: five Newton-Schulz iterations bring all of them to about 1."""
    left = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    parameter = nn.Parameter(torch.zeros(8, 2))
    optimizer = made({B: parameter}, section("muon", learning_rate=0.5))
    parameter.grad = left[:, :2] * torch.tensor([100.0, 10.0])
    optimizer.step()
    values = torch.linalg.svdvals(parameter.detach()) / (0.5 * 0.2 * math.sqrt(8))
    assert bool(((values > 0.6) & (values < 1.3)).all()), values


@pytest.mark.parametrize("optim", [needs("schedule_free_adamw")])
def test_schedule_free_by_hand(optim):
    """arXiv 2405.15682, algorithm 1 with its equations 3 to 5, at rates that warm up: with G = g / (sqrt(v / bias) + e)
    at y = 0.1 z + 0.9 x, z <- z - rate G and x <- (1 - c) x + c z, c = (largest rate so far)^2 / sum of its squares.
    The weights to look at are x; those that training goes on with are y, bit for bit what they were before the look."""
    parameter, optimizer = one([[1.5, -0.5]], optim, learning_rate=0.2, weight_decay=0.25, adam_beta2=0.99)
    z = x = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    v, total = torch.zeros_like(z), 0.0
    for t, rate in enumerate((0.1, 0.2, 0.2, 0.2), start=1):
        y = 0.1 * z + 0.9 * x
        assert torch.allclose(parameter, y, rtol=0, atol=1e-12)
        g = torch.tensor([[1.0 * t, -2.0]], dtype=torch.float64)
        v = 0.99 * v + 0.01 * g * g
        step = g / ((v / (1 - 0.99**t)).sqrt() + 1e-8) + 0.25 * y
        z = z - rate * step
        total += rate**2
        x = (1 - rate**2 / total) * x + rate**2 / total * z
        parameter.grad, optimizer.param_groups[0]["lr"] = g, rate
        optimizer.step()
        trained = parameter.detach().clone()
        with evaluation_weights(optimizer), evaluation_weights(optimizer):
            assert torch.allclose(parameter, x, rtol=0, atol=1e-12)
        assert torch.equal(parameter, trained)
        assert not torch.allclose(parameter, x, rtol=0, atol=1e-3) or t == 1
    end_training(optimizer)
    assert torch.allclose(parameter, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optim", [needs("schedule_free_adamw")])
def test_our_warm_up_is_the_library_s(optim):
    """Rates set from outside over 3 steps = the library's own warmup_steps=3, bit for bit."""
    from schedulefree import AdamWScheduleFree

    ours, theirs = parameters(), parameters()
    optimizer = made(ours, section(optim, learning_rate=0.3))
    own = AdamWScheduleFree(theirs.values(), lr=0.3, warmup_steps=3)
    own.train()
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for group in optimizer.param_groups:
            group["lr"] = 0.3 * min(1.0, (step + 1) / 3)
        optimizer.step()
        own.step()
    end_training(optimizer)
    own.eval()
    assert all(torch.equal(ours[name], theirs[name]) for name in SHAPES)


@pytest.mark.parametrize("optim", [needs(optim) for optim in ON_CPU])
def test_looking_changes_nothing(optim):
    """Ten steps with a look after each = ten steps, bit for bit, for every optimizer."""
    looked, plain = parameters(), parameters()
    first, second = made(looked, section(optim)), made(plain, section(optim))
    for step in range(10):
        for named, optimizer in ((looked, first), (plain, second)):
            give_gradients(named, step)
            optimizer.step()
        with evaluation_weights(first):
            pass
    assert all(torch.equal(looked[name], plain[name]) for name in SHAPES)


def test_one_group_unless_more_is_asked_for():
    """Without weight decay all parameters are one group in the model's order: plain AdamW, as LoRA+ with ratio 1 is."""
    named = parameters()
    for settings in (section(), section(loraplus_lr_ratio=1.0)):
        (group,) = parameter_groups(named.items(), settings)
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in named.values()]
        assert (group["lr"], group["peak"], group["label"], group["state"]) == (0.01, 0.01, "", "adamw")
    assert group_rates([group]) == {}
    assert group_lines([group]) == []


def test_decay_is_for_matrices_and_lora_plus_for_b():
    """One step of Adam moves every weight by its rate (m / sqrt(v) = g / |g|): A by 0.01, B by 16 times that."""
    named = parameters()
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = made(named, section(loraplus_lr_ratio=16.0, adam_epsilon=1e-30))
    give_gradients(named, 0)
    optimizer.step()
    moved = {name: (named[name] - before[name]).abs() for name in SHAPES}
    assert torch.allclose(moved[A], torch.full((2, 4), 0.01), atol=1e-6)
    assert torch.allclose(moved[B], torch.full((3, 2), 0.16), atol=1e-6)
    assert torch.allclose(moved[HEAD], torch.full((5, 4), 0.01), atol=1e-6)
    groups = parameter_groups(named.items(), section(loraplus_lr_ratio=16.0, weight_decay=0.1))
    assert [(g["label"], g["peak"], g["weight_decay"], len(g["params"])) for g in groups] == [
        ("", 0.01, 0.1, 2), ("lora_B", 0.16, 0.1, 1), ("", 0.01, 0.0, 1),
    ]  # fmt: skip
    norm = {"base_model.model.norm.modules_to_save.default.weight": nn.Parameter(torch.ones(4))}
    assert parameter_groups(norm.items(), section(weight_decay=0.1))[0]["weight_decay"] == 0.0
    assert group_rates(groups) == {"learning_rate/lora_B": 0.16}
    assert group_lines(groups)[1] == "learning rate 1.60e-01, weight decay 0.1, adamw: 1 tensors matching lora_B"


def test_rates_by_pattern():
    """Patterns come before LoRA+'s ratio; one that matches nothing lists what is trained, layers' numbers left out."""
    named = parameters()
    rates = {"lm_head|embed_tokens": 1e-5, r"q_proj\.lora_B": 0.5}
    groups = parameter_groups(named.items(), section(loraplus_lr_ratio=16.0, lr_groups=rates))
    assert [(g["label"], g["peak"], len(g["params"])) for g in groups] == [
        ("", 0.01, 2), (r"q_proj\.lora_B", 0.5, 1), ("lm_head|embed_tokens", 1e-5, 1),
    ]  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        parameter_groups(named.items(), section(lr_groups={"v_proj": 1.0, "head": 1.0, "lm_h": 2.0}))
    assert caught.value.problems == [
        "train.lr_groups: 'v_proj' matches nothing that is trained; trained are layers.*.q_proj.lora_A.default.weight, "
        "layers.*.q_proj.lora_B.default.weight, layers.*.q_proj.lora_magnitude_vector.default.weight, "
        "lm_head.modules_to_save.default.weight",
        "train.lr_groups: both 'head' and 'lm_h' match base_model.model.lm_head.modules_to_save.default.weight",
    ]


def test_settings_without_effect_are_refused(monkeypatch):
    for given, said in (
        ({"optim": "adafactor", "adam_beta2": 0.9}, "`adam_beta2` has no effect with `optim: adafactor`; leave it out"),
        ({"optim": "lion", "adam_epsilon": 1.0}, "`adam_epsilon` has no effect with `optim: lion`; leave it out"),
        ({"optim": "schedule_free_adamw"}, "averages instead of decaying: set `lr_scheduler_type: constant`"),
        ({"optim_args": {"momentum": 0.9}}, "momentum: not a setting of adamw_torch; it has none of its own"),
        ({"optim": "muon", "optim_args": {"ns_step": 5}}, "ns_step: not a setting of muon; it has momentum, ns_steps"),
        ({"optim": "muon", "optim_args": {"ns_steps": 2.5}}, "ns_steps: should be a whole number from 1 and below 100"),
        ({"optim": "muon", "optim_args": {"momentum": 1}}, "momentum: should be a number from 0 and below 1; got 1"),
        ({"lr_groups": {"(": 0.1}}, "'\\(' is not a regular expression"),
        ({"lr_groups": {"head": 0.0}}, "the rate of 'head' should be above 0"),
        ({"activation_offloading": True, "torch_compile": True}, "`activation_offloading` does not go together with"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainSection(max_steps=9, **given)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="needs the package lion-pytorch, which is not installed; pip install lion-pyt"
    ):
        TrainSection(max_steps=9, optim="lion")


def test_defaults_are_filled_in():
    assert section("muon", optim_args={"momentum": 0.9}).optim_args == {"momentum": 0.9, "ns_steps": 5}
    assert section("adamw_torch").optim_args == {}
    again = TrainSection.model_validate(section("adafactor").model_dump())
    assert again == section("adafactor")


def test_where_it_does_not_run():
    def on(device: str, engine: str) -> Any:
        return SimpleNamespace(device=DEVICES[device], engine=engine)

    check_training(on("npu", "zero3"), section())
    for optim, device, engine, said in (
        ("adamw_torch_fused", "npu", "single", "adamw_torch_fused does not run on npu; use adamw_torch"),
        ("muon", "cpu", "fsdp2", "muon does not run under fsdp2; use adamw_torch"),
        ("adafactor", "cuda", "zero2", "adafactor does not run under zero2; use adamw_torch"),
    ):
        with pytest.raises(RecipeError) as caught:
            check_training(on(device, engine), section(optim))
        assert caught.value.problems == [f"train.optim: {said}"]
    with pytest.raises(RecipeError) as caught:
        check_training(on("cuda", "fsdp2"), section("muon", activation_offloading=True))
    assert caught.value.problems == [
        "train.optim: muon does not run under fsdp2; use adamw_torch",
        "train.activation_offloading: not with fsdp2; set train.gradient_checkpointing instead",
    ]


def test_a_recipe_s_own_device_is_looked_at_first(tiny_recipe):
    """Without torch, as `finetune check` does; `device: auto` is decided later."""
    with pytest.raises(RecipeError, match=r"train.activation_offloading: on cpu they are in the host's memory already"):
        tiny_recipe("train.activation_offloading=true")
    tiny_recipe("train.activation_offloading=true", "device=auto")
    with pytest.raises(RecipeError, match=r"train.optim: adamw_torch_fused does not run on npu; use adamw_torch"):
        tiny_recipe("train.optim=adamw_torch_fused", "device=npu")
