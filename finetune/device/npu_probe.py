"""Why is (or isn't) the NPU usable? Metadata first, then a child process: torch_npu is never imported here."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from finetune.device.machine import Answer, Machine

SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
TIMEOUT = 120.0  # seconds; CANN's first operator may be compiled for half a minute
MARK = "@@"
# Autoloading is off so that `import torch` survives a broken torch_npu. Operators are waited for: through its queue a
# failing one took 100 s to say so (5 s waited for, torch_npu 2.13.0 on a runtime without kernels), and did not name itself.
SETTINGS = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "ASCEND_LAUNCH_BLOCKING": "1"}

# The child says how far it came before each step, and what it found at the end. An operator that adds needs a kernel; a
# copy alone does not.
CHILD = r"""
import json
found = {}
def say(**more):
    found.update(more)
    print("\n@@" + json.dumps(found), flush=True)
try:
    say(step="importing torch")
    import torch
    say(torch=torch.__version__, step="importing torch_npu")
    import torch_npu
    say(torch_npu=torch_npu.__version__, step="asking for devices")
    count = int(torch.npu.device_count())
    say(count=count, available=bool(torch.npu.is_available()))
    if count:
        say(names=[torch.npu.get_device_name(i) for i in range(count)], bf16=bool(torch.npu.is_bf16_supported()))
        say(step="running a first operation")
        one = torch.ones(8, device="npu:0")
        say(sum=float((one + one).sum().cpu()))
    say(step="done")
except BaseException as error:
    say(error=f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        status: `ok`, or the name of what is wrong, one of those that `explain` gives or not_installed, no_torch,
            version_mismatch, no_device, wrong_result, crashed, hung.
        what: the finding in words.
        remedy: what to do about it; "" when nothing.
        facts: what the child said: torch, torch_npu (versions), count, names (of the SoCs), bf16, step, error.
    """

    status: str
    what: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def breaks_torch(self) -> bool:
        """Whether `import torch` fails while it loads torch_npu by itself."""
        return self.status == "version_mismatch" or self.facts.get("step") == "importing torch_npu"


def probe(timeout: float = TIMEOUT, machine: Machine | None = None) -> Probe:
    """Whether torch_npu works here. Takes seconds where it does; `timeout` seconds at most.

    Versions are compared from metadata before anything is imported: a torch_npu for another torch fails with whatever
    comes first (a missing libhccl.so without CANN, an undefined symbol with it), which says nothing about the versions.
    """
    machine = machine or Machine()
    torch, torch_npu = machine.version("torch"), machine.version("torch_npu")
    if torch_npu is None:
        same = f"=={release(torch)}" if torch else ""
        return Probe(
            "not_installed", "torch_npu is not installed", f"on an Ascend machine: pip install torch-npu{same}"
        )
    if torch is None:
        return Probe("no_torch", f"torch_npu {torch_npu} is installed, torch is not", "pip install torch")
    wrong = mismatch(torch, torch_npu, required_torch(machine))
    if wrong:
        # Releases of torch_npu carry torch's version, with .postN for corrections.
        return Probe(
            "version_mismatch", wrong, f'pip install "torch-npu=={release(torch)}"; or torch=={release(torch_npu)}'
        )
    answer = machine.run([sys.executable, "-c", CHILD], timeout, SETTINGS)
    return judge(answer or Answer(127, err="no Python interpreter"), timeout)


def judge(answer: Answer, timeout: float) -> Probe:
    """The child's answer in words."""
    facts = _last_word(answer.out)
    step = facts.get("step", "starting")
    if "error" in facts:
        status, remedy = explain(facts["error"])
        return Probe(status, f"{step} failed: {first_line(facts['error'])}", remedy, facts)
    if answer.code is None:
        return Probe(
            "hung", f"{step} did not end within {timeout:.0f} s",
            "look at `npu-smi info` for processes that hold the device and at ~/ascend/log/debug/plog; a driver that does "
            "not answer needs a restart of the machine",
            facts,
        )  # fmt: skip
    if step != "done":
        ended = f"signal {-answer.code}" if answer.code < 0 else f"exit code {answer.code}"
        said = first_line(next((line for line in reversed(answer.err.splitlines()) if line.strip()), ""))
        return Probe(
            "crashed", f"{step} ended the process ({ended}){': ' if said else ''}{said}",
            "libraries of two CANN versions are mixed, or driver and CANN do not fit: one set_env.sh only, in a fresh shell; "
            "~/ascend/log/debug/plog has the details",
            facts,
        )  # fmt: skip
    if not facts.get("count") or not facts.get("available"):
        return Probe(
            "no_device", "torch_npu loads, but sees no NPU",
            "check `npu-smi info`, that /dev/davinci* are there (in a container: mount them and the driver), and that "
            "ASCEND_RT_VISIBLE_DEVICES names devices of this machine, ascending",
            facts,
        )  # fmt: skip
    if facts.get("sum") != 16.0:
        return Probe("wrong_result", f"1 + 1, eight times, gave {facts.get('sum')} instead of 16.0", "do not train on this "
                     "device: check its health with `npu-smi info -t health` and the CANN kernels package", facts)  # fmt: skip
    return Probe("ok", f"torch_npu {facts['torch_npu']} computes on {facts['count']} NPU(s)", "", facts)


def mismatch(torch_version: str, torch_npu_version: str, required: str | None) -> str | None:
    """What is wrong with a pair of versions, in words; None: they belong together.

    Args:
        required: the torch that torch_npu's own metadata asks for, as `2.13.0`; None: it names none (2.12 and older).
    """
    wanted, here = release(required or torch_npu_version), release(torch_version)
    if here == wanted:
        return None
    return f"torch_npu {torch_npu_version} was built for torch {wanted}, but torch {torch_version} is installed"


def required_torch(machine: Machine) -> str | None:
    """The torch that the installed torch_npu's metadata pins, as `2.13.0`."""
    found = [re.match(r"torch\s*\(?\s*==\s*([\d.]+)", text) for text in machine.requires("torch_npu")]
    return next((match[1].rstrip(".") for match in found if match), None)


def release(version: str) -> str:
    """`2.13.0` of 2.13.0+cpu, 2.13.0.post3 or 2.13.0rc1."""
    match = re.match(r"\d+(\.\d+){0,2}", version)
    return match[0] if match else version


def explain(error: str) -> tuple[str, str]:
    """The name of what is wrong and its remedy, from the text of an error that torch_npu raised.

    Texts: tried with torch_npu 2.12.0.post3 to 2.14.0 (import), and by torch_npu's and CANN's own tables of messages
    (torch_npu/csrc/core/npu/NPUErrorCodes.h, torch_npu/utils/_error_code.py).
    """
    for pattern, status, remedy in CAUSES:
        found = re.search(pattern, error)
        if found:
            return status, remedy.format(*found.groups())
    return "failed", "the message is torch_npu's own; ~/ascend/log/debug/plog has the details"


DRIVER = (
    "the driver is missing or does not answer: check `npu-smi info`; in a container mount /usr/local/Ascend/driver, "
    "/usr/local/dcmi, /dev/davinci*, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc"
)
# In the order of asking: what names its cause plainly comes before what is said on many occasions.
CAUSES = (
    (r"Two accelerators cannot be used at the same time.*?npu and (\w+)", "conflict",
     "torch was built for {0} and sees such a device: use one of them. For the NPU install torch's CPU build (pip install "
     "torch --index-url https://download.pytorch.org/whl/cpu), for {0} pip uninstall torch-npu"),
    (r"No module named '(torch_npu|torch)'", "not_installed", "pip install {0}"),
    (r"No module named 'torch_npu\._C'", "python_mismatch",
     "torch_npu's library is for another Python: pip uninstall torch-npu, and install it again with this Python's pip"),
    (r"libascend_hal\.so|libdcmi\.so|libdrvdsmi\w*\.so", "driver_missing", DRIVER),
    (r"(lib(?:hccl|ascendcl|acl_\w+|ge_\w+|graph|runtime|\w*tdt\w*|opapi|nnopbase|platform|error_manager|msprofiler|"
     r"register)\.so[\w.]*): cannot open shared object", "cann_missing",
     "{0} is part of CANN: install CANN, and run `" + SET_ENV + "` in the shell before Python starts (a running process "
     "can't mend its LD_LIBRARY_PATH)"),
    (r"(lib[\w+-]+\.so[\w.]*): cannot open shared object", "library_missing",
     "{0} is neither torch's nor found by the linker: install its system package, or add its folder to LD_LIBRARY_PATH "
     "before Python starts"),
    (r"version `((?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found", "system_too_old",
     "this system's C or C++ library is older than {0}, which the wheel needs: use a newer image (the wheels are "
     "manylinux_2_28), or conda's libstdc++ first in LD_LIBRARY_PATH"),
    (r"undefined symbol: (_Z\w*(?:c10d?|torch|2at|caffe2)\w*)", "abi_mismatch",
     "torch_npu was built for another torch (symbol {0}): install the torch-npu of the same x.y.z as torch"),
    (r"undefined symbol: ((?:acl|Hccl|hccl|ge|rt|Hcom|_ZN2ge|_ZNK2ge)\w*)", "cann_mismatch",
     "CANN is older than this torch_npu (symbol {0}): install the CANN that its release names"),
    (r"undefined symbol: (\w+)", "abi_mismatch",
     "torch_npu, torch and CANN do not belong together (symbol {0}): install a documented set of the three"),
    (r"(?:compiled using NumPy 1\.x|numpy\.core\.multiarray failed to import)", "numpy_mismatch",
     "this torch_npu was built for another NumPy: pip install 'numpy<2', or a newer torch_npu"),
    (r"No module named '(tbe|te|acl|asc|auto_tune|schedule_search)\b", "cann_missing",
     "{0} is CANN's own Python package, found through PYTHONPATH: run `" + SET_ENV + "` before Python starts, and let "
     "nothing empty PYTHONPATH afterwards"),
    (r"No module named '(\w+)", "python_package_missing", "CANN's compiler or torch_npu needs it: pip install {0}"),
    (r"Unsupported soc version: ([\w ]+)", "soc_unsupported",
     "this torch_npu does not know the processor {0}: install a newer one"),
    (r"Cannot re-initialize NPU in forked subprocess", "forked", "start processes by spawn, not by fork"),
    (r"PYTORCH_NPU_ALLOC_CONF.*PYTORCH_ALLOC_CONF|PYTORCH_ALLOC_CONF.*PYTORCH_NPU_ALLOC_CONF", "allocator_settings",
     "set one of PYTORCH_ALLOC_CONF and PYTORCH_NPU_ALLOC_CONF, not both"),
    (r"(?:set ASCEND_RT_VISIBLE_DEVICES:|Set visible device failed|error code is 107001\b|[Ii]nvalid device ID)", "no_device",
     "the device asked for is not there: ASCEND_RT_VISIBLE_DEVICES must name devices of this machine, ascending, and "
     "/dev/davinci* must be mounted into a container"),
    (r"error code is (?:500004|507033|507899|507901|207004|507008)\b|drvRet=|\bdcmi\b|driver error|open device \d+ failed",
     "driver_failed", DRIVER + "; a device that another container holds can't be opened twice"),
    (r"error code is 207006\b|[Pp]ermission denied", "permission",
     "this user may not open the device: add it to the group of /dev/davinci* (HwHiAiUser) or start the container with it"),
    (r"NPU out of memory|error code is (?:200000|207001|207005|207018)\b", "device_full",
     "the device's memory is taken: `npu-smi info` lists the processes that hold it"),
    (r"EJ0001|Failed to initialize the HCCP process", "device_busy",
     "an earlier job still holds the device's network: wait for it to end or stop it, `npu-smi info` lists the processes"),
    (r"'ASCEND_OPP_PATH'|error code is 148049\b", "kernels_missing",
     "ASCEND_OPP_PATH does not lead to operators: run `" + SET_ENV + "` before Python starts, and install the CANN kernels "
     "(ops) package of this SoC"),
    (r"E40021|E40022|Failed to compile Op|AclSetCompileopt", "compiler_failed",
     "CANN's operator compiler does not start, most often for want of a Python package (attrs, cython, numpy, decorator, "
     "sympy, cffi, pyyaml, pathlib2, psutil, protobuf, scipy, requests, absl-py): install them; "
     "~/ascend/log/debug/plog names the missing one"),
    (r"error code is (?:161002|361001|561\d\d\d)\b|Op\w*KernelNotFound|operator name is|OPS call acl api failed|"
     r"aclnn\w+ failed", "kernels_missing",
     "the runtime works, operators do not: install the CANN kernels (ops) package of this SoC, in CANN's own version"),
    (r"call hccl api failed|\bHCCL\b.*failed", "hccl_failed",
     "collective communication failed: check HCCL_CONNECT_TIMEOUT, HCCL_SOCKET_IFNAME and the links (hccn_tool)"),
    (r"call acl api failed|aclInit|aclrt\w+", "runtime_failed",
     "CANN's runtime does not start: driver and CANN may not fit; ~/ascend/log/debug/plog has the details"),
    (r"Failed to load the backend extension: torch_npu", "autoload",
     "torch_npu is installed and can't be loaded: export TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch start without it; "
     "`finetune doctor` says why it can't"),
)  # fmt: skip


def first_line(text: str) -> str:
    """The first line that says something, shortened to 300 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."


def _last_word(out: str) -> dict[str, Any]:
    """What the child had found when it last said something. CANN prints to the same stream, so lines are searched."""
    for line in reversed(out.splitlines()):
        if line.startswith(MARK):
            try:
                return json.loads(line.removeprefix(MARK))
            except ValueError:
                continue  # cut off by the end of the process
    return {}
