"""CANN, driver and firmware by the files that they leave on disk, and whether this process would find them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from finetune.device.compatibility import Processor
from finetune.device.machine import Machine
from finetune.doctor.finding import OK, WARNING, Finding, error, ok, warning

DRIVER, FIRMWARE = "/usr/local/Ascend/driver/version.info", "/usr/local/Ascend/firmware/version.info"
# Where CANN is installed unless told otherwise: up to 8.5 and from there on, of root and of a user.
PLACES = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann", "/usr/local/Ascend/latest")
PARTS = ("runtime", "compiler", "opp", "toolkit", "hccl")
KERNELS = "opp/built-in/op_impl/ai_core/tbe/kernel/"


@dataclass(frozen=True)
class Cann:
    """An installed CANN. version: `8.3.RC1`; None: its files do not say. parts: version of each component."""

    home: str
    version: str | None
    parts: dict[str, str]


def find_cann(machine: Machine) -> Cann | None:
    """The CANN that the environment names, else the first one on disk."""
    named = [machine.env[name] for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if machine.env.get(name)]
    places = [*named, *PLACES, f"{machine.home}/Ascend/ascend-toolkit/latest", f"{machine.home}/Ascend/cann"]
    return next((read_cann(machine, place.rstrip("/")) for place in places if machine.paths(place)), None)


def read_cann(machine: Machine, home: str) -> Cann:
    """Versions by the files of its packages, the plainest first.

    ascend_toolkit_install.info: `version=8.3.RC1`; version.cfg: `toolkit_running_version=[7.6.0.1.220:8.0.0]`;
    {toolkit,runtime,opp,compiler}/version.info: `version_dir=8.2.RC1`, or only an inner number in `Version=`.
    """
    parts = dict(
        re.findall(r"^(\w+)_running_version=\[(?:[^:\]]*:)?([^\]]+)\]", machine.read(f"{home}/version.cfg") or "", re.M)
    )
    installs = [*machine.paths(f"{home}/*-linux/ascend_toolkit_install.info"), f"{home}/ascend_toolkit_install.info"]
    infos = [f"{home}/{part}/version.info" for part in PARTS] + [
        f"{home}/share/info/{part}/version.info" for part in PARTS
    ]
    version = next((found for path in installs if (found := _value(machine, path, "version"))), None)
    version = version or parts.get("toolkit") or parts.get("runtime")
    version = version or next((found for path in infos if (found := _value(machine, path, "version_dir"))), None)
    return Cann(home, version, parts)


def check_cann(machine: Machine, cann: Cann | None, wanted: bool) -> list[Finding]:
    """Installed, whole, and in the environment of this process.

    Args:
        wanted: whether an NPU is to be used here: without one a missing CANN is no fault.
    """
    named = machine.env.get("ASCEND_HOME_PATH") or machine.env.get("ASCEND_TOOLKIT_HOME")
    if cann is None:
        if not wanted and not named:
            return []
        said = f"ASCEND_HOME_PATH={named}: no such folder" if named else "not found in /usr/local/Ascend or ~/Ascend"
        return [
            error(
                "CANN",
                said,
                "install the CANN toolkit and the kernels (ops) package of the SoC, or use an image with both",
            )
        ]
    if not wanted:
        return [ok("CANN", f"{cann.version or 'of unknown version'} in {cann.home}; no NPU here")]
    set_env = _set_env(machine, cann.home)
    findings = [
        Finding("CANN", OK if cann.version else WARNING, f"{cann.version or 'of unknown version'} in {cann.home}")
    ]
    if named and cann.home != named.rstrip("/"):
        findings = [
            error(
                "CANN",
                f"ASCEND_HOME_PATH={named}: no such folder; {cann.version} is in {cann.home}",
                f"source {set_env} in a fresh shell, before Python starts",
            )
        ]
    elif not named:
        findings.append(
            error(
                "CANN environment",
                "set_env.sh was not sourced (ASCEND_HOME_PATH is not set)",
                f"source {set_env} in the shell that starts Python",
            )
        )
    else:
        findings.append(_library_path(machine, cann, set_env))
    mixed = {part: version for part, version in cann.parts.items() if part in PARTS and version != cann.version}
    if mixed and cann.version:
        said = ", ".join(f"{part} {version}" for part, version in mixed.items())
        findings.append(
            error(
                "CANN components",
                f"mixed: {said} beside {cann.version}",
                "install all packages in one version; remove the others' folders",
            )
        )
    return findings


def check_kernels(machine: Machine, cann: Cann, soc: Processor | None) -> list[Finding]:
    """The operators' package for this SoC, by the folders that it brings."""
    folders = machine.paths(f"{cann.home}/{KERNELS}ascend*")
    here = sorted(PurePosixPath(path).name.removeprefix("ascend") for path in folders)
    installs = machine.paths(f"{cann.home}/*-linux/ascend_ops_install.info")
    packages = [name for path in installs if (name := _value(machine, path, "package_name"))]
    if not here and not packages:
        name = (
            f"Ascend-cann-{soc.ops}-ops (before 8.5: Ascend-cann-kernels-{soc.ops.lower()})" if soc else "of this SoC"
        )
        return [warning("CANN kernels", f"none found below {cann.home}", f"install the kernels package {name}")]
    said = ", ".join([*here, *packages])
    if soc and not any(_belongs(name, soc) for name in [*here, *packages]):
        return [
            error(
                "CANN kernels",
                f"for {said} only; this is {soc.family}",
                f"install the kernels package for {soc.ops} in CANN's own version",
            )
        ]
    return [ok("CANN kernels", said)]


def check_driver(machine: Machine, smi_version: str) -> list[Finding]:
    """Driver and firmware, and whether they fit: each names the range of the other that it works with."""
    driver, firmware = _value(machine, DRIVER, "Version"), _value(machine, FIRMWARE, "Version")
    if driver is None:
        if not smi_version:
            return []
        return [
            warning(
                "NPU driver",
                f"{smi_version} by npu-smi; {DRIVER} is not here",
                "in a container mount it: some of CANN's checks read it",
            )
        ]
    findings = [ok("NPU driver", driver)]
    if smi_version and smi_version != driver:
        findings = [
            warning(
                "NPU driver",
                f"{driver} by {DRIVER}, {smi_version} by npu-smi",
                "mount driver and npu-smi of the same host; after an update restart the machine",
            )
        ]
    if firmware is None:
        return findings  # a container has no firmware files: they are the host's
    ranges = re.findall(r"\[([\d.]+),\s*([\d.]+)\]", _value(machine, DRIVER, "compatible_version_fw") or "")
    fits = not ranges or any(_numbers(low) <= _numbers(firmware)[:3] <= _numbers(high) for low, high in ranges)
    if fits:
        return [*findings, ok("NPU firmware", firmware)]
    said = f"{firmware} is outside what driver {driver} works with: {', '.join(f'{low} to {high}' for low, high in ranges)}"
    return [
        *findings,
        error("NPU firmware", said, "install driver and firmware of one Ascend HDK release, restart"),
    ]


def _library_path(machine: Machine, cann: Cann, set_env: str) -> Finding:
    """The folder of libascendcl.so must be on LD_LIBRARY_PATH, and of one CANN only."""
    path = [machine.resolve(part) for part in machine.env.get("LD_LIBRARY_PATH", "").split(":") if part]
    homes = [cann.home, *machine.paths(f"{cann.home}/*-linux")]
    ours = [machine.resolve(f"{home}/lib64") for home in homes]
    others = [part for part in path if part.endswith("/lib64") and _is_cann(machine, part) and part not in ours]
    if not any(part in ours for part in path):
        return error(
            "CANN environment",
            f"LD_LIBRARY_PATH lacks {cann.home}/lib64",
            f"source {set_env} in the shell that starts Python; sudo and some launchers drop the variable",
        )
    if others:
        return warning(
            "CANN environment",
            f"LD_LIBRARY_PATH has another CANN too: {others[0]}",
            "one set_env.sh only, in a fresh shell: mixed libraries crash",
        )
    return ok("CANN environment", "ASCEND_HOME_PATH and LD_LIBRARY_PATH are set")


def _is_cann(machine: Machine, folder: str) -> bool:
    return bool(machine.paths(f"{folder}/libascendcl.so*"))


def _set_env(machine: Machine, home: str) -> str:
    """The set_env.sh of this CANN: inside it from 8.5 on, beside it before."""
    for path in (f"{home}/set_env.sh", f"{PurePosixPath(home).parent}/set_env.sh"):
        if machine.paths(path):
            return path
    return "/usr/local/Ascend/ascend-toolkit/set_env.sh"


def _belongs(name: str, soc: Processor) -> bool:
    """Whether a folder (910b, 910_93, 310p) or a package (Ascend-cann-910b-ops) is for this SoC's family."""
    bare = name.removeprefix("Ascend-cann-").removesuffix("-ops").lower()
    also = {"A3": ("910_93", "a3"), "910": ("910", "910a")}.get(soc.ops, ())
    return bare in (soc.ops.lower(), *also)


def _value(machine: Machine, path: str, key: str) -> str | None:
    """`key=value` of a version file; the key's case counts (`Version` of the driver, `version` of CANN)."""
    found = re.search(rf'^{key}\s*=\s*"?([^"\n]+?)"?\s*$', machine.read(path) or "", re.M)
    return found[1] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
