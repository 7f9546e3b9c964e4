"""The real torch_npu has every name that we and the libraries use of it, with these arguments; so has the emulation.

The wheel that constraints.txt names is loaded on a CANN runtime of host memory (tests/npu/cann): a rename is found here.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.npu.cann.process import environment, python, wheel
from tests.npu.names import Use, uses

pytestmark = pytest.mark.slow
OFFERS = ROOT / "tests/npu/cann/offers.py"
EMULATION = ROOT / "tests/npu/site"
# What of the libraries runs in our path: the checks at import, the device, seeds, memory, attention
LIBRARIES = {
    "accelerate": ("accelerator.py", "state.py", "utils/imports.py", "utils/memory.py", "utils/modeling.py", "utils/random.py"),
    "transformers": ("utils/import_utils.py", "integrations/npu_flash_attention.py"),
}  # fmt: skip
# torch asks its device's module for these by name (autocast, checkpointing, FSDP2, DDP)
BY_TORCH = (
    "_is_in_bad_fork", "_lazy_init", "current_device", "current_stream", "device", "device_count", "empty_cache",
    "get_amp_supported_dtype", "get_rng_state", "is_available", "is_initialized", "manual_seed_all", "set_device",
    "set_rng_state", "stream", "Event", "Stream", "synchronize",
)  # fmt: skip
# Arguments in their order, with the default where there is one
SCHEMAS = {
    "npu_rms_norm": [["input"], ["gamma"], ["epsilon", 1e-6]],
    "npu_rotary_mul": [["input"], ["r1"], ["r2"], ["rotary_mode", "half"], ["rotate", None]],
    "npu_swiglu": [["input"], ["dim", -1]],
    "npu_fusion_attention": [
        ["query"], ["key"], ["value"], ["head_num"], ["input_layout"], ["pse", None], ["padding_mask", None],
        ["atten_mask", None], ["scale", 1.0], ["keep_prob", 1.0], ["pre_tockens", 2147483647], ["next_tockens", 2147483647],
        ["inner_precise", 0], ["prefix", None], ["actual_seq_qlen", None], ["actual_seq_kvlen", None], ["sparse_mode", 0],
        ["gen_mask_parallel", True], ["sync", False], ["softmax_layout", ""], ["sink", None], ["dropout_mask", None],
        ["seed", 0], ["offset", 0],
    ],
}  # fmt: skip
OPTIMIZER = [
    ["params", False], ["lr", True], ["betas", True], ["eps", True], ["weight_decay", True], ["amsgrad", True],
]  # fmt: skip
# SoC name as CANN gives it -> torch.npu.is_bf16_supported(); every name of the wheel's table, Ascend950's once
NO_BF16 = (
    "Ascend910PremiumA", "Ascend910ProA", "Ascend910A", "Ascend910ProB", "Ascend910B", "Ascend310P1", "Ascend310P2",
    "Ascend310P3", "Ascend310P4", "Ascend310P5", "Ascend310P7",
)  # fmt: skip
BF16 = (
    "Ascend910B1", "Ascend910B2", "Ascend910B2C", "Ascend910B3", "Ascend910B4", "Ascend910B4-1", "Ascend910_9391",
    "Ascend910_9392", "Ascend910_9381", "Ascend910_9382", "Ascend910_9372", "Ascend910_9362", "Ascend910_9363",
    "Ascend310B1", "Ascend310B2", "Ascend310B3", "Ascend310B4", "Ascend950", "Ascend950PR_9589", "Ascend950DT_9591",
)  # fmt: skip
UNKNOWN = ("Ascend310", "Ascend910", "Ascend910C", "910B3")
SOCS = dict.fromkeys(NO_BF16, False) | dict.fromkeys(BF16, True) | {n: f"Unsupported soc version: {n}" for n in UNKNOWN}
# Read by CANN's libraries, the driver or the container runtime, which are not in the wheel
CANN_READS = {
    "ASCEND_VISIBLE_DEVICES", "HCCL_IF_IP", "HCCL_IF_BASE_PORT", "HCCL_SOCKET_IFNAME", "HCCL_WHITELIST_DISABLE",
    "HCCL_OP_EXPANSION_MODE", "LCCL_DETERMINISTIC", "ASCEND_SLOG_PRINT_TO_STDOUT", "ASCEND_TOOLKIT_HOME",
    "ASCEND_PROCESS_LOG_PATH",
}  # fmt: skip
READ_BY_TRANSFORMERS = {"NPU_FA2_SPARSE_MODE"}
VARIABLES = {
    "PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE", "ASCEND_RT_VISIBLE_DEVICES", "HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT",
    "HCCL_DETERMINISTIC", "ASCEND_LAUNCH_BLOCKING", "CPU_AFFINITY_CONF", "TORCH_NPU_FALLBACK_CPU_DISABLE",
}  # fmt: skip
WRONG = [
    Use("torch.npu.max_memory", "wrong name"),
    Use("torch_npu.optim.FusedAdamW", "wrong class"),
    Use("torch.npu.set_compile_mode", "wrong keyword", positional=0, keywords=("jit",)),
    Use("torch_npu.npu_swiglu", "wrong number", positional=3),
    Use("torch.npu.config.internal_format", "wrong setting", stored=True),
]
BLOCKS = 512  # bytes that torch_npu adds to each tensor, for reads past its end
VARIABLE = re.compile(
    r"\b(?:(?:ASCEND|HCCL|LCCL|PYTORCH_NPU|TORCH_NPU|TORCH_HCCL|NPU|ACLNN)_[A-Z0-9_]*[A-Z0-9]|TASK_QUEUE_ENABLE|CPU_AFFINITY_CONF)\b"
)


def sources() -> list[Path]:
    found = sorted((ROOT / "finetune").rglob("*.py"))
    for package, names in LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        found += [Path(spec.origin).parent / name for name in names]
    return found


def everything_used() -> list[Use]:
    """By us and the libraries, from their sources; by torch, from the lists above."""
    listed = [f"torch.npu.{name}" for name in BY_TORCH] + [f"torch_npu.{name}" for name in SCHEMAS]
    return uses(sources()) + [Use(name, "listed in the test") for name in listed]


def offers(used: list[Use], where: dict[str, str]) -> dict:
    done = python([OFFERS], where, stdin=json.dumps([asdict(use) for use in used]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def real() -> dict:
    """`problems` and `parameters` of what is used, and the problems of what is `wrong` on purpose."""
    found = offers(everything_used() + WRONG, environment(kernels=False))
    found["wrong"] = [problem for problem in found["problems"] if problem.startswith("wrong")]
    return found | {"problems": [problem for problem in found["problems"] if problem not in found["wrong"]]}


@pytest.fixture(scope="module")
def facts() -> dict:
    done = python([ROOT / "tests/npu/cann/facts.py"], environment(), stdin=json.dumps(list(SOCS)))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_real_one_has_what_is_used(real):
    """Every name is there, and every call's arguments fit."""
    ours = {use.name for use in uses(sorted((ROOT / "finetune").rglob("*.py")))}
    expected = {
        "torch.npu.is_available", "torch.npu.device_count", "torch.npu.get_device_name", "torch.npu.is_bf16_supported",
        "torch.npu.mem_get_info", "torch.npu.max_memory_allocated", "torch.npu.set_compile_mode",
        "torch.npu.config.allow_internal_format", "torch_npu.optim.NpuFusedAdamW",
    }  # fmt: skip
    assert expected - ours == set(), "the reader of our sources misses names"
    assert real["problems"] == []
    assert real["parameters"]["torch_npu.optim.NpuFusedAdamW"] == OPTIMIZER


def test_a_rename_would_be_found(real):
    """The check sees a name that is gone, an argument too many, a keyword that is none, a setting that nobody reads."""
    assert [problem.split(":")[0] for problem in real["wrong"]] == [use.where for use in WRONG]


@pytest.fixture(scope="module")
def emulated() -> dict:
    where = environment(cann=False, kernels=False)
    where["PYTHONPATH"] = where["PYTHONPATH"].replace(str(wheel()), str(EMULATION))
    return offers(everything_used(), where)


def test_the_emulation_has_what_is_used(real, emulated):
    """Under the same names, with the same arguments in the same order."""
    assert emulated["problems"] == []
    different = [
        f"{name}({', '.join(argument for argument, _ in found or ())}), really {wanted}"
        for name, found in emulated["parameters"].items()
        if (wanted := real["parameters"][name]) is not None and found != wanted
    ]
    assert different == []


def test_the_emulation_has_no_operators_of_its_own(real, emulated):
    """What it counts as a fallback has no kernel in the wheel; what its autocast casts, the wheel's does."""
    fallbacks = {f"aten::{name}" for name in (EMULATION / "torch_npu/fallbacks.txt").read_text().split()}
    assert len(fallbacks) > 200
    assert fallbacks & set(real["operators"]["PrivateUse1"]) == set()
    key = "AutocastPrivateUse1"
    assert set(emulated["operators"][key]) - set(real["operators"][key]) == set()


def test_fused_operators(facts):
    assert facts["schemas"] == SCHEMAS


def test_dtype_by_chip(facts):
    """Which chips compute in bfloat16. "Ascend910B" without a digit is one of the first generation; A2 is 910B1 to B4-1."""
    assert facts["socs"] == SOCS


def test_what_is_set_has_its_effect(facts):
    version = re.search(r"^torch_npu==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None and facts["version"] == version[1]
    assert facts["available"] == [True, True, True]  # torch's answer, accelerate's, transformers'
    assert facts["devices"] == [2, "Ascend910B3", "npu"]
    assert facts["hccl"] == [True, "hccl"]
    assert facts["jit_compile_false"] is True
    assert facts["allow_internal_format"] == "AttributeError"  # it can be set, not read
    assert facts["generators"] == [[16, 16], True]  # bytes of the two devices' states: seed and offset
    total, peak, after = facts["memory"]
    assert (total, peak, after) == (16 << 30, 2 * (BLOCKS + (4 << 20)), BLOCKS + (4 << 20))
    assert facts["double"] == "torch.float32"  # with a warning: sums in float64 are not to be had


def test_environment_variables_are_read_by_the_wheel():
    """What we set, name in a message or describe: each is a string of the wheel's, unless CANN itself reads it."""
    files = [
        *(ROOT / "finetune").rglob("*.py"), *(ROOT / "docs").glob("ascend*.md"), *(ROOT / "scripts").rglob("*npu*"),
        *ROOT.rglob("Dockerfile*"),
    ]  # fmt: skip
    named = {name for file in files if file.is_file() for name in VARIABLE.findall(file.read_text(encoding="utf-8"))}
    assert "PYTORCH_NPU_ALLOC_CONF" in named
    found = strings_of_the_wheel(named | VARIABLES | CANN_READS)
    assert (named | VARIABLES) - found - CANN_READS - READ_BY_TRANSFORMERS == set()


def strings_of_the_wheel(names: set[str]) -> set[str]:
    """Those that stand in the wheel: as a whole string of a library, or as a word of its Python."""
    found: set[str] = set()
    for library in (wheel() / "torch_npu/lib").glob("*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found |= {name for name in names - found if content.find(b"\0" + name.encode() + b"\0") >= 0}
    for source in (wheel() / "torch_npu").rglob("*.py"):
        found |= (names - found) & set(VARIABLE.findall(source.read_text(encoding="utf-8")))
    return found
