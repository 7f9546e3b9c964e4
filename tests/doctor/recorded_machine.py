"""A machine that answers from recordings.

Where they come from: npu_smi_*, *_version.info, version.cfg, toolkit_install.info: outputs of real machines in public
issues (vllm-ascend, cut to two chips). probe_*: what the child printed here with the wheels of torch_npu 2.13.0 and
2.12.0.post3 on torch 2.13.0, without CANN or on a stand-in for its runtime that has no kernels; probe_ok_emulated on an
emulated device. nvidia_*: written down in nvidia-smi's form, not recorded.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune.device.machine import Answer, Machine
from finetune.doctor.command import doctor_command

RECORDED = Path(__file__).parent / "recorded"
GIB = 1 << 30
HOME = "/usr/local/Ascend/ascend-toolkit/latest"
VERSIONS = {"torch": "2.12.0", "transformers": "5.23.0", "peft": "0.21.2", "datasets": "5.2.0"}
REQUIRES = (
    "torch>=2.10",
    "transformers<6,>=5.17",
    "peft<0.22,>=0.20",
    'datasets>=5; extra == "hub"',
    'x>=1; extra == "dev"',
)
CPUINFO = """processor	: 0
model name	: Intel(R) Xeon(R) Platinum 8480+
siblings	: 8
cpu cores	: 4
flags		: fpu avx512f avx512_bf16 amx_bf16
"""
MEMINFO = "MemTotal:       65011712 kB\nMemFree:  1024 kB\nMemAvailable:   52428800 kB\n"
CPU_TORCH = {"torch": "2.12.0", "cuda": None, "hip": None, "available": False}


@dataclass(frozen=True)
class Recorded(Machine):
    """paths: those that are there beside the files. commands: by the program's name; `python` by what its code imports."""

    env: Mapping[str, str] = field(default_factory=dict)
    arch: str = "x86_64"
    python: str = "3.11.7"
    cwd: str = "/runs"
    home: str = "/home/user"
    files: Mapping[str, str] = field(default_factory=lambda: {"/proc/cpuinfo": CPUINFO, "/proc/meminfo": MEMINFO})
    there: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, Answer | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: dict(VERSIONS))
    requirements: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"finetune": REQUIRES})
    free: Mapping[str, int] = field(default_factory=lambda: {"/": 200 * GIB, "/dev/shm": 32 * GIB, "/tmp": 100 * GIB})
    locked: Sequence[str] = ()

    def run(self, command: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Answer | None:
        name = command[0]
        if "-c" in command:
            assert env and env["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
            name = "npu child" if "import torch_npu" in command[-1] else "torch child"
        elif name == "nvidia-smi" and len(command) > 1:
            name = "nvidia-smi query"
        return self.commands.get(name, child(CPU_TORCH) if name == "torch child" else None)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def paths(self, pattern: str) -> list[str]:
        known = [*self.there, *self.files]
        folders = {str(parent) for path in known for parent in Path(path).parents}
        return sorted(path for path in {*known, *folders} if fnmatch.fnmatchcase(path, pattern))

    def is_link(self, path: str) -> bool:
        return path in self.links

    def resolve(self, path: str) -> str:
        return next((path.replace(link, to, 1) for link, to in self.links.items() if path.startswith(link)), path)

    def free_bytes(self, path: str) -> int | None:
        return self.free.get(path)

    def writable(self, path: str) -> bool:
        return path not in self.locked

    def cores(self) -> int:
        return 8

    def version(self, distribution: str) -> str | None:
        return self.versions.get(distribution.replace("_", "-"))

    def requires(self, distribution: str) -> list[str]:
        return list(self.requirements.get(distribution.replace("_", "-"), ()))

    def requires_python(self, distribution: str) -> str | None:
        return ">=3.11"

    def tested(self) -> dict[str, str]:
        return {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def child(found: Mapping[str, object]) -> Answer:
    """What a probe's child prints at its end."""
    return Answer(0, f"\n@@{json.dumps(found)}\n")


def with_npus(smi: str = "npu_smi_910b3.txt", probe: Answer | None = None, **changes: object) -> Recorded:
    """A machine with driver, CANN 9.1.0 in the environment, kernels and torch-npu 2.12.0: all as it should be."""
    info = recorded("toolkit_install.info").replace("8.3.RC2", "9.1.0")
    driver = recorded("driver_version.info").replace("24.1.rc3", recorded(smi).split("Version: ")[1].split()[0])
    files = {
        "/proc/cpuinfo": CPUINFO,
        "/proc/meminfo": MEMINFO,
        "/usr/local/Ascend/driver/version.info": driver,
        "/usr/local/Ascend/firmware/version.info": recorded("firmware_version.info"),
        f"{HOME}/aarch64-linux/ascend_toolkit_install.info": info,
        f"{HOME}/lib64/libascendcl.so": "",
        "/usr/local/Ascend/ascend-toolkit/set_env.sh": "",
    }
    nodes = ["/dev/davinci0", "/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    kernels = f"{HOME}/opp/built-in/op_impl/ai_core/tbe/kernel"
    machine = Recorded(
        env={"ASCEND_HOME_PATH": HOME, "LD_LIBRARY_PATH": f"{HOME}/lib64:{HOME}/lib64/plugin/opskernel"},
        files=files,
        there=[*nodes, f"{kernels}/ascend910b", f"{kernels}/ascend910_93", f"{kernels}/ascend310p"],
        commands={"npu-smi": Answer(0, recorded(smi)), "npu child": probe or npu_works("Ascend910B3", True)},
        versions=VERSIONS | {"torch-npu": "2.12.0"},
        requirements={"finetune": REQUIRES, "torch-npu": ["torch==2.12.0.*", "numpy", "pyyaml"]},
    )
    return replace(machine, **changes)  # type: ignore[arg-type]


def npu_works(name: str, bf16: bool) -> Answer:
    """The child's last word on two NPUs that compute."""
    found = {"step": "done", "torch": "2.12.0", "torch_npu": "2.12.0", "count": 2, "available": True}
    return child(found | {"names": [name, name], "bf16": bf16, "sum": 16.0})


def ask(
    machine: Machine, recipe: Path | None = None, json_file: str | None = None, overrides: Sequence[str] = ()
) -> int:
    """The command on this machine; its exit code."""
    return doctor_command(argparse.Namespace(recipe=recipe, set=list(overrides), json=json_file), machine)


def lines(text: str, *subjects: str) -> list[str]:
    """The report's lines about these subjects, with runs of spaces made one, and the remedies below them."""
    found, wanted = [], False
    for line in text.splitlines():
        if line.startswith(" "):
            if wanted:
                found.append(line.strip())
            continue
        wanted = any(line.split(maxsplit=1)[1].startswith(f"{subject} ") for subject in subjects)
        if wanted:
            found.append(" ".join(line.split()))
    return found
