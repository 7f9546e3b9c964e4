"""Every state of a half-installed torch_npu, by what its child process printed: the lines that are said, and the exit code."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from finetune.device.machine import Answer
from finetune.device.npu_probe import explain, mismatch
from tests.doctor.recorded_machine import HOME, Recorded, ask, child, lines, npu_works, recorded, with_npus

AUTOLOAD = [
    "error torch autoload `import torch` fails in every program here, torch-npu being loaded with it",
    "do: until torch-npu is right: export TORCH_DEVICE_BACKEND_AUTOLOAD=0, or pip uninstall torch-npu",
]
SUBJECTS = ("torch-npu", "torch autoload")
SITE = "/opt/venv/lib/python3.11/site-packages"


def said(machine: Recorded, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = ask(machine)
    return code, lines(capsys.readouterr().out, *SUBJECTS)


def test_no_cann(capsys):
    answer = Answer(0, recorded("probe_cann_missing.txt"))
    assert said(with_npus(probe=answer), capsys) == (2, [
        "error torch-npu importing torch_npu failed: ImportError: libhccl.so: cannot open shared object file: "
        "No such file or directory [cann_missing]",
        "do: libhccl.so is part of CANN: install CANN, and run `source /usr/local/Ascend/ascend-toolkit/set_env.sh` in the "
        "shell before Python starts (a running process can't mend its LD_LIBRARY_PATH)",
        *AUTOLOAD,
    ])  # fmt: skip


def test_wrong_version_is_seen_before_anything_is_imported(capsys):
    pins = {"finetune": ["torch>=2.10"], "torch-npu": ["torch==2.12.0.*"]}
    machine = with_npus(
        versions={"torch": "2.13.0+cpu", "torch-npu": "2.12.0.post3"}, requirements=pins, commands={"npu child": None}
    )
    assert said(machine, capsys) == (2, [
        "error torch-npu torch_npu 2.12.0.post3 was built for torch 2.12.0, but torch 2.13.0+cpu is installed "
        "[version_mismatch]",
        'do: pip install "torch-npu==2.13.0"; or torch==2.12.0',
        *AUTOLOAD,
    ])  # fmt: skip


def test_built_for_another_torch(capsys):
    symbol = "_ZN5torch8autograd10deleteNodeEPNS0_4NodeE"
    assert said(with_npus(probe=Answer(0, recorded("probe_abi_mismatch.txt"))), capsys) == (2, [
        f"error torch-npu importing torch_npu failed: ImportError: {SITE}/torch_npu/lib/libtorch_npu.so: undefined symbol: "
        f"{symbol} [abi_mismatch]",
        f"do: torch_npu was built for another torch (symbol {symbol}): install the torch-npu of the same x.y.z as torch",
        *AUTOLOAD,
    ])  # fmt: skip


def test_built_for_another_cann(capsys):
    assert said(with_npus(probe=Answer(0, recorded("probe_cann_mismatch.txt"))), capsys) == (2, [
        f"error torch-npu importing torch_npu failed: ImportError: {SITE}/torch_npu/lib/libtorch_npu.so: undefined symbol: "
        "rtGetC2cCtrlAddr [cann_mismatch]",
        "do: CANN is older than this torch_npu (symbol rtGetC2cCtrlAddr): install the CANN that its release names",
        *AUTOLOAD,
    ])  # fmt: skip


def test_no_device(capsys):
    assert said(with_npus(probe=Answer(0, recorded("probe_no_device.txt"))), capsys) == (2, [
        "error torch-npu torch_npu loads, but sees no NPU [no_device]",
        "do: check `npu-smi info`, that /dev/davinci* are there (in a container: mount them and the driver), and that "
        "ASCEND_RT_VISIBLE_DEVICES names devices of this machine, ascending",
    ])  # fmt: skip


KERNELS = (
    "do: the runtime works, operators do not: install the CANN kernels (ops) package of this SoC, in CANN's own version"
)


def test_no_kernels(capsys):
    assert said(with_npus(probe=Answer(0, recorded("probe_kernels_missing.txt"))), capsys) == (2, [
        "error torch-npu running a first operation failed: RuntimeError: "
        "operator():../torch_npu/csrc/framework/OpParamMaker.cpp:348 OPS function error: OnesLike, error code is 500003 "
        "[kernels_missing]",
        KERNELS,
    ])  # fmt: skip
    assert said(with_npus(probe=Answer(0, recorded("probe_kernels_async.txt"))), capsys) == (2, [
        "error torch-npu running a first operation failed: RuntimeError: The Inner error is reported as above. The process "
        "exits for this inner error, and the current working operator name is OnesLike. [kernels_missing]",
        KERNELS,
    ])  # fmt: skip


def test_unknown_processor(capsys):
    assert said(with_npus(probe=Answer(0, recorded("probe_soc_unsupported.txt"))), capsys) == (2, [
        "error torch-npu asking for devices failed: RuntimeError: Unsupported soc version: Ascend777X [soc_unsupported]",
        "do: this torch_npu does not know the processor Ascend777X: install a newer one",
    ])  # fmt: skip


def test_both_allocator_settings(capsys):
    assert said(with_npus(probe=Answer(0, recorded("probe_both_alloc.txt"))), capsys) == (2, [
        "error torch-npu asking for devices failed: RuntimeError: Both PYTORCH_NPU_ALLOC_CONF and PYTORCH_ALLOC_CONF have "
        "been set, please set only one of them. [allocator_settings]",
        "do: set one of PYTORCH_ALLOC_CONF and PYTORCH_NPU_ALLOC_CONF, not both",
    ])  # fmt: skip


def test_cuda_torch_beside_an_npu(capsys):
    """The text is torch_npu's own (torch_npu/__init__.py, _check_device_conflict)."""
    conflict = (
        "RuntimeError: Two accelerators cannot be used at the same time in PyTorch: npu and cuda. You can install the cpu "
        "version of PyTorch to use your npu device, or use the cuda device with 'export "
        "TORCH_DEVICE_BACKEND_AUTOLOAD=0'.\n[ERROR] 2026-11-29-10:00:00 (PID:1, Device:-1, RankID:-1) ERR00007 PTA"
    )
    answer = child({"step": "importing torch_npu", "torch": "2.12.0", "error": conflict})
    code, found = said(with_npus(probe=answer), capsys)
    assert (code, found[0].split(": ")[0], found[0][-10:]) == (
        2,
        "error torch-npu importing torch_npu failed",
        "[conflict]",
    )
    assert found[1:] == [
        "do: torch was built for cuda and sees such a device: use one of them. For the NPU install torch's CPU build (pip "
        "install torch --index-url https://download.pytorch.org/whl/cpu), for cuda pip uninstall torch-npu",
        *AUTOLOAD,
    ]


def test_the_child_crashes(capsys):
    before = '\n@@{"step": "importing torch"}\n\n@@{"step": "asking for devices", "torch": "2.12.0"}\n'
    answer = Answer(-signal.SIGSEGV, before, "W1129 something\nFatal Python error: Segmentation fault\n\n")
    assert said(with_npus(probe=answer), capsys) == (2, [
        "error torch-npu asking for devices ended the process (signal 11): Fatal Python error: Segmentation fault [crashed]",
        "do: libraries of two CANN versions are mixed, or driver and CANN do not fit: one set_env.sh only, in a fresh "
        "shell; ~/ascend/log/debug/plog has the details",
    ])  # fmt: skip


def test_the_child_hangs(capsys):
    answer = Answer(None, '\n@@{"step": "running a first operation", "count": 2}\n\n@@{"step": "cut o')
    assert said(with_npus(probe=answer), capsys) == (2, [
        "error torch-npu running a first operation did not end within 120 s [hung]",
        "do: look at `npu-smi info` for processes that hold the device and at ~/ascend/log/debug/plog; a driver that does "
        "not answer needs a restart of the machine",
    ])  # fmt: skip


def test_an_npu_that_counts_wrong(capsys):
    found = {
        "step": "done",
        "torch_npu": "2.12.0",
        "count": 1,
        "available": True,
        "names": ["Ascend910B3"],
        "sum": 15.0,
    }
    assert said(with_npus(probe=child(found)), capsys) == (2, [
        "error torch-npu 1 + 1, eight times, gave 15.0 instead of 16.0 [wrong_result]",
        "do: do not train on this device: check its health with `npu-smi info -t health` and the CANN kernels package",
    ])  # fmt: skip


def test_npus_without_torch_npu(capsys):
    machine = with_npus(versions={"torch": "2.12.0"}, commands={"npu-smi": Answer(0, recorded("npu_smi_910b3.txt"))})
    assert said(machine, capsys) == (2, [
        "error torch-npu torch_npu is not installed [not_installed]",
        "do: on an Ascend machine: pip install torch-npu==2.12.0",
    ])  # fmt: skip


def test_torch_npu_without_npus(capsys):
    """Left over on a machine with GPUs or none: it breaks what it is not needed for."""
    versions = {"torch": "2.13.0+cpu", "torch-npu": "2.13.0"}
    pins = {"finetune": ["torch>=2.10"], "torch-npu": ["torch==2.13.0.*"]}
    answer = Answer(0, recorded("probe_cann_missing.txt"))
    machine = Recorded(versions=versions, requirements=pins, commands={"npu child": answer})
    code, found = said(machine, capsys)
    assert code == 2
    assert found[0] == (
        "warning torch-npu importing torch_npu failed: ImportError: libhccl.so: cannot open shared object file: No such file "
        "or directory [cann_missing]; there is no NPU here and finetune goes on without it"
    )
    assert found[1].startswith(
        "do: pip uninstall torch-npu: other programs fail over it; with an NPU: libhccl.so is part of"
    )
    assert found[2:] == AUTOLOAD
    assert said(replace(machine, env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}), capsys) == (0, found[:2])
    unhurt = Recorded(
        versions=versions, requirements=pins, commands={"npu child": Answer(0, recorded("probe_no_device.txt"))}
    )
    assert said(unhurt, capsys) == (0, [
        "warning torch-npu torch_npu loads, but sees no NPU; there is none here",
        "do: pip uninstall torch-npu where no NPU is to be used",
    ])  # fmt: skip


def test_autoload_switched_off_is_no_longer_an_error_of_its_own(capsys):
    env = {"ASCEND_HOME_PATH": HOME, "LD_LIBRARY_PATH": f"{HOME}/lib64", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    code, found = said(with_npus(probe=Answer(0, recorded("probe_cann_missing.txt")), env=env), capsys)
    assert code == 2
    assert [line.split()[:2] for line in found] == [["error", "torch-npu"], ["do:", "libhccl.so"]]


def test_all_right(capsys):
    answer = Answer(0, recorded("probe_ok_emulated.txt"))
    assert said(with_npus(probe=answer), capsys) == (0, ["ok torch-npu torch_npu 2.13.0+emul computes on 2 NPU(s)"])
    assert said(with_npus(probe=npu_works("Ascend910B3", True)), capsys) == (
        0, ["ok torch-npu torch_npu 2.12.0 computes on 2 NPU(s)"],
    )  # fmt: skip


@pytest.mark.parametrize(("error", "status"), [
    ("ModuleNotFoundError: No module named 'torch_npu'", "not_installed"),
    ("ModuleNotFoundError: No module named 'torch_npu._C'", "python_mismatch"),
    ("ImportError: libascend_hal.so: cannot open shared object file: No such file or directory", "driver_missing"),
    ("ImportError: libopapi.so: cannot open shared object file: No such file or directory", "cann_missing"),
    ("ImportError: libgfortran.so.5: cannot open shared object file: No such file or directory", "library_missing"),
    ("OSError: /lib/libc.so.6: version `GLIBC_2.28' not found (required by libtorch_npu.so)", "system_too_old"),
    ("ImportError: libtorch_npu.so: undefined symbol: _ZNK4c10d7Backend15incref_pyobjectEv", "abi_mismatch"),
    ("ImportError: libtorch_npu.so: undefined symbol: aclrtSetOpExecuteTimeOutV2", "cann_mismatch"),
    ("ImportError: libop_plugin_atb.so: undefined symbol: _ZN3atb15CreateOperationE", "abi_mismatch"),
    ("ModuleNotFoundError: No module named 'tbe'", "cann_missing"),
    ("ModuleNotFoundError: No module named 'decorator'", "python_package_missing"),
    ("RuntimeError: aclInit, error code is 507008\n[ERROR] ERR00100 PTA call acl api failed", "driver_failed"),
    ("RuntimeError: aclrtGetDeviceCount(&device_count), error code is 207004\n EE1001: The argument is invalid."
     "Reason: set ASCEND_RT_VISIBLE_DEVICES:4 error, input data rang[0-2)", "no_device"),
    ("RuntimeError: NPU function error: aclInit, error code is 107001\nERR00100 PTA call acl api failed", "no_device"),
    ("RuntimeError: Initialize: NPU function error: at_npu::native::AclSetCompileopt(aclCompileOpt::ACL_PRECISION_MODE, "
     "precision_mode), error code is 500001", "compiler_failed"),
    ("RuntimeError: zero_: NPU function error: call aclnnInplaceZero failed, error code is 561103\n[ERROR] ERR00100 PTA "
     "call acl api failed.", "kernels_missing"),
    ("RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB", "device_full"),
    ("RuntimeError: EJ0001: Failed to initialize the HCCP process.", "device_busy"),
    ("RuntimeError: Cannot re-initialize NPU in forked subprocess.", "forked"),
    ("RuntimeError: Failed to load the backend extension: torch_npu. You can disable extension auto-loading with "
     "TORCH_DEVICE_BACKEND_AUTOLOAD=0.", "autoload"),
    ("ValueError: something new", "failed"),
])  # fmt: skip
def test_errors_are_named_by_their_cause(error, status):
    """Texts seen in public issues and in torch_npu's sources; what each one's remedy names is filled in."""
    found, remedy = explain(error)
    assert found == status
    assert "{" not in remedy


def test_versions_that_belong_together():
    assert mismatch("2.13.0+cpu", "2.13.0.post2", "2.13.0") is None
    assert mismatch("2.10.0", "2.10.0.post4", None) is None
    assert (
        mismatch("2.13.0", "2.14.0", None)
        == "torch_npu 2.14.0 was built for torch 2.14.0, but torch 2.13.0 is installed"
    )
    assert mismatch("2.13.1", "2.13.0", "2.13.0.*") == (
        "torch_npu 2.13.0 was built for torch 2.13.0, but torch 2.13.1 is installed"
    )
