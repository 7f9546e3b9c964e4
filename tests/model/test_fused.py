"""Fused ops: what is found in which model, equal results, wrong kernels caught with their numbers, nothing left behind."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from finetune.device import DEVICES, npu_kernels
from finetune.device.kernels import Kernels
from finetune.errors import RecipeError
from finetune.model.agreement import allowed
from finetune.model.fused import Fused, fuse
from finetune.model.fusible import PLAIN
from tests.equivalence.tiny_models import COMMON, MODELS, tiny_model
from tests.model import fused_custom
from tests.model.fused_kernels import KERNELS, rotary

CPU = torch.device("cpu")
KINDS = ("rms_norm", "swiglu", "rotary")
IDS = torch.randint(3, 19, (2, 11), generator=torch.Generator().manual_seed(0))
MORE = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM", COMMON | {"head_dim": 16, "hidden_act": "gelu_pytorch_tanh"}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", COMMON),
    "phi3-partial": ("Phi3Config", "Phi3ForCausalLM", COMMON | {"partial_rotary_factor": 0.5}),
    "glm": ("GlmConfig", "GlmForCausalLM", COMMON | {"head_dim": 16}),
    "glm-whole": ("GlmConfig", "GlmForCausalLM", COMMON | {"head_dim": 16, "partial_rotary_factor": 1.0}),
}
# Modules with rms_norm, swiglu, rotary; of four layers.
FOUND = {
    "llama": (9, 4, 4),  # two norms a layer and the last one
    "qwen3": (17, 4, 4),  # and one for queries, one for keys, over a head's width
    "gemma": (9, 0, 4),  # 1 + weight; a gate of gelu
    "gemma3": (25, 0, 4),
    "phi3": (9, 4, 4),  # gate and up out of one layer
    "phi3-partial": (9, 4, 0),  # half of a head is turned
    "glm": (9, 4, 0),
    "glm-whole": (9, 4, 0),  # pairs (2i, 2i + 1)
    "qwen3-moe": (17, 0, 4),  # experts in fused weights
    "qwen3-next": (11, 4, 0),  # shared experts; gated norms take two inputs; a quarter of a head is turned
    "opt": (0, 0, 0),
}  # fmt: skip


@pytest.fixture(autouse=True)
def more_models(monkeypatch):
    for name, row in MORE.items():
        monkeypatch.setitem(MODELS, name, row)


def uneven(model):
    """Norms that are not all ones."""
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
    return model


def computed(model, ids=IDS):
    """Logits, and the gradient of every parameter that trains."""
    model.zero_grad()
    output = model(ids)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    logits.float().logsumexp(-1).mean().backward()
    return [logits.detach()] + [p.grad.clone() for p in model.parameters() if p.grad is not None]


def apart(some, others):
    """The largest difference of the logits relative to the largest logit, or of all gradients to the largest gradient."""
    differences = [float((one - other).abs().max()) for one, other in zip(some, others, strict=True)]
    sizes = [float(other.abs().max()) for other in others]
    return max(differences[0] / sizes[0], max(differences[1:]) / max(sizes[1:]))


def counting(kernels=KERNELS):
    """The kernels, and a count of their calls by kind."""
    calls = Counter()

    def counted(kind):
        kernel = getattr(kernels, kind)

        def call(*inputs):
            calls[kind] += 1
            return kernel(*inputs)

        return call

    return Kernels(*map(counted, KINDS)), calls


def of_model(model, kernels=KERNELS, dtype=torch.float32):
    lines = []
    return fuse(model, kernels, dtype, CPU, lines.append), lines


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_computes_the_same(name):
    model = uneven(tiny_model(name))
    before, names = computed(model), list(model.state_dict())
    kernels, calls = counting()
    fused, lines = of_model(model, kernels)
    calls.clear()
    assert tuple(fused.about[kind]["modules"] for kind in KINDS) == FOUND[name]
    assert all("plain" not in told for told in fused.about.values()) and len(lines) == 1
    with fused:
        inside = computed(model)
        assert list(model.state_dict()) == names
    assert apart(inside, before) < 1e-6
    assert tuple(calls[kind] for kind in KINDS) == FOUND[name]
    assert all(map(torch.equal, computed(model), before))


def test_a_model_of_no_known_class():
    torch.manual_seed(0)
    model = fused_custom.Nobody()
    before = computed(model)
    fused, _ = of_model(model)
    assert [told["modules"] for told in fused.about.values()] == [2, 1, 1]
    assert all(0 <= told["max_difference"] < 1e-6 for told in fused.about.values())
    with fused:
        assert apart(computed(model), before) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", fused_custom.NEARLY)
def test_what_nearly_is_one_stays(kind, dtype):
    torch.manual_seed(0)
    fused, lines = of_model(torch.nn.Sequential(kind().to(dtype)), dtype=dtype)
    assert [told["modules"] for told in fused.about.values()] == [0, 0, 0]
    assert lines == ["fused ops: " + ", ".join(f"{kind} nowhere: nothing of its form" for kind in fused.about)]


def test_norms_of_torch_and_one_with_an_owner():
    """torch's own RMSNorm, its epsilon left open too; one whose forward somebody has replaced is left alone."""
    norms = torch.nn.ModuleList(
        [torch.nn.RMSNorm(32), torch.nn.RMSNorm(32, eps=1e-3), torch.nn.LayerNorm(32, bias=False)]
    )
    owned = torch.nn.RMSNorm(32)
    owned.forward = owned.forward
    fused, lines = of_model(norms.append(owned), Kernels(KERNELS.rms_norm))
    assert fused.about["rms_norm"]["modules"] == 2 and fused.about.keys() == {"rms_norm"}
    assert re.fullmatch(r"fused ops: rms_norm x2 \(differs by [0-9.]+e-0[78]\)", lines[0])


def no_epsilon(x, weight, epsilon):
    return KERNELS.rms_norm(x, weight, 0.0)


def no_way_back(x, weight, epsilon):
    return KERNELS.rms_norm(x.detach(), weight, epsilon) + 0 * x


def wrong_half(q, k, cos, sin):
    def turn(x):
        return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin

    return turn(q), turn(k)


def swapped(gate, up):
    return KERNELS.swiglu(up, gate)


def not_there(*_inputs):
    raise RuntimeError("aclnnRmsNorm failed\nand a trace")


@pytest.mark.parametrize(
    ("kind", "kernel", "least"),
    # at half the length of epsilon's root: 1 / sqrt(2) of it is lost
    [("rms_norm", no_epsilon, 0.3), ("rms_norm", no_way_back, 0.9), ("rotary", wrong_half, 0.3), ("swiglu", swapped, 0.3)],
)  # fmt: skip
def test_a_wrong_kernel_stays_out_with_its_number(kind, kernel, least):
    model = uneven(tiny_model("llama"))
    before = computed(model)
    fused, lines = of_model(model, dataclasses.replace(KERNELS, **{kind: kernel}))
    told = fused.about[kind]
    assert told["modules"] == 0 and "max_difference" not in told
    assert sum(left["modules"] for left in told["plain"]) == {"rms_norm": 9}.get(kind, 4)
    line = next(line for line in lines if f"{kind} x" in line and "stays plain" in line)
    assert float(re.search(r"differs by (\S+) \(allowed: 1e-05\)", line)[1]) > least
    assert len(lines) == 2 and kind not in lines[0]
    with fused:
        assert 0 < apart(computed(model), before) < 1e-6  # the other two run


def test_a_kernel_that_raises_or_gives_another_dtype():
    model = tiny_model("llama", dtype=torch.bfloat16)
    kernels = Kernels(not_there, lambda gate, up: KERNELS.swiglu(gate, up).float())
    fused, lines = of_model(model, kernels, torch.bfloat16)
    what = "fused ops: rms_norm x9 (64, epsilon 1e-06) stays plain: the device's op "
    assert lines[1] == what + "raises RuntimeError: aclnnRmsNorm failed"
    assert fused.about["swiglu"]["modules"] == 4  # the next layer's autocast rounds it to bfloat16
    both = Kernels(lambda x, weight, epsilon: KERNELS.rms_norm(x, weight, epsilon).float())
    _, lines = of_model(model, both, torch.bfloat16)
    assert lines[0].endswith("gives torch.float32 (2, 4, 64) in place of torch.bfloat16 (2, 4, 64)")


def test_nothing_is_left_behind():
    one, other = uneven(tiny_model("llama")), uneven(tiny_model("llama"))
    space = sys.modules[type(one).__module__].__dict__
    function, before = space["apply_rotary_pos_emb"], computed(one)
    fused, _ = of_model(one)
    assert space["apply_rotary_pos_emb"] is function  # nothing yet
    with pytest.raises(KeyError), fused:
        assert space["apply_rotary_pos_emb"] is not function
        assert not any("forward" in vars(module) for module in other.modules())
        twin = copy.deepcopy(one)  # computes with its own weights
        twin.model.norm.weight.data.zero_()
        assert float(twin(IDS).logits.detach().abs().max()) == 0 < float(one(IDS).logits.detach().abs().max())
        raise KeyError
    assert space["apply_rotary_pos_emb"] is function
    assert not any("forward" in vars(module) for module in one.modules())
    assert all(map(torch.equal, computed(one), before))
    with fused:  # and again
        assert 0 < apart(computed(one), before) < 1e-6


def test_the_rotary_kernel_is_for_the_calls_that_were_compared():
    """Heads in another place, of another width, queries of another dtype: the function itself."""
    model = tiny_model("llama")
    space = sys.modules[type(model).__module__].__dict__
    function = space["apply_rotary_pos_emb"]
    kernels, calls = counting()
    fused, _ = of_model(model, kernels)
    calls.clear()
    q, k, angle = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16), torch.randn(2, 5, 16)
    with fused:
        for inputs, options in [
            ((q.transpose(1, 2), k.transpose(1, 2), angle, angle), {"unsqueeze_dim": 2}),
            ((q[..., :8], k[..., :8], angle[..., :8], angle[..., :8]), {}),
            ((q.double(), k, angle, angle), {}),
        ]:
            found, wanted = space["apply_rotary_pos_emb"](*inputs, **options), function(*inputs, **options)
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1]) and not calls
        space["apply_rotary_pos_emb"](q, k, angle, angle)
    assert calls == {"rotary": 1}


def with_lora(model, **settings):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **settings))
    return model.train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "phi3"])
def test_under_lora_and_gradient_checkpointing(name, checkpointing):
    model = with_lora(uneven(tiny_model(name)), lora_dropout=0.2)
    if checkpointing:
        base = model.get_base_model()
        (getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable)(
            {"use_reentrant": False}
        )
        model.enable_input_require_grads()
    torch.manual_seed(3)
    before = computed(model)
    fused, _ = of_model(model)
    assert [told["modules"] for told in fused.about.values()] == list(FOUND[name])
    assert all(module.training for module in model.modules())
    with fused:
        torch.manual_seed(3)  # the same dropout: gate, up and down are called in the order they were
        assert 0 < apart(computed(model), before) < 1e-6


def test_bfloat16_under_autocast_with_norms_that_train():
    """peft keeps what trains in float32: the plain norm gives float32 for such a weight, and so does the fused one."""
    model = with_lora(uneven(tiny_model("qwen3", dtype=torch.bfloat16)), modules_to_save=["input_layernorm", "q_norm"])
    with torch.autocast("cpu", torch.bfloat16):
        before = computed(model)
    fused, _ = of_model(model, dtype=torch.bfloat16)
    assert [told["modules"] for told in fused.about.values()] == [17 + 8, 4, 4]  # those that peft copied, too
    assert all(told["max_difference"] <= allowed(torch.bfloat16) == 0.03125 for told in fused.about.values())
    with fused, torch.autocast("cpu", torch.bfloat16):
        after = computed(model)
    assert [tensor.dtype for tensor in after] == [tensor.dtype for tensor in before]
    assert float((after[0] - before[0]).abs().max() / before[0].abs().max()) < 0.03


def test_no_kernels_no_change():
    fused, lines = of_model(tiny_model("llama"), Kernels())
    assert (fused.about, lines) == ({}, [])
    assert DEVICES["cuda"].kernels() == Kernels()
    with Fused() as nothing:
        nothing.restore()


def test_those_of_the_npu_are_called_as_torch_npu_takes_them(monkeypatch):
    """Its three functions in plain torch, by their documented arguments."""

    def npu_rms_norm(self, gamma, epsilon=1e-06):
        return PLAIN.rms_norm(self, gamma, epsilon), torch.zeros(())

    def npu_swiglu(self, dim=-1):
        first, second = self.chunk(2, dim)
        return F.silu(first) * second

    def npu_rotary_mul(self, r1, r2, rotary_mode="half"):
        assert rotary_mode == "half"
        return rotary(self, self, r1, r2)[0]

    its = SimpleNamespace(npu_rms_norm=npu_rms_norm, npu_swiglu=npu_swiglu, npu_rotary_mul=npu_rotary_mul)
    monkeypatch.setitem(sys.modules, "torch_npu", its)
    fused, _ = of_model(tiny_model("qwen3"), npu_kernels.kernels())
    assert [told["modules"] for told in fused.about.values()] == list(FOUND["qwen3"])


def test_a_run(tiny_recipe, finished_run, monkeypatch):
    """The same training and the same answers as with the CPU's own, and the manifest says what was fused."""
    from transformers.models.llama import modeling_llama as llama

    from finetune.run import run

    monkeypatch.setitem(DEVICES, "cpu", dataclasses.replace(DEVICES["cpu"], kernels=lambda: KERNELS))
    _, plain = finished_run
    result = run(tiny_recipe("train.gradient_checkpointing=true"))
    told = result.manifest["training"].pop("fused_ops")
    assert [told[kind]["modules"] for kind in ("rms_norm", "swiglu", "rotary")] == [5, 2, 2]
    own = plain.manifest["training"]["fused_ops"]
    assert {kind: own[kind]["modules"] for kind in own} == {
        "rms_norm": 5, "swiglu": 0, "rotary": 2, "lora": 16, "attention": 2
    }  # fmt: skip
    assert result.manifest["training"]["loss"] == pytest.approx(plain.manifest["training"]["loss"], rel=1e-4)
    assert result.scores == plain.scores
    assert not hasattr(llama.apply_rotary_pos_emb, "__wrapped__")


def test_the_recipe_says_no(tiny_recipe):
    from finetune.ready import fused_ops_of

    placement = SimpleNamespace(device=dataclasses.replace(DEVICES["cpu"], kernels=lambda: KERNELS))
    assert fused_ops_of(tiny_recipe("model.fused_ops=false"), tiny_model("llama"), placement, print).about == {}
    with pytest.raises(RecipeError, match="fused_ops"):
        tiny_recipe("model.fused_ops=true")
