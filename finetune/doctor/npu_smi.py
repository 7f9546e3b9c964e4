"""`npu-smi info`: which NPUs the driver sees, how they are, and who uses them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune.device.machine import Answer, Machine
from finetune.doctor.finding import Finding, error, ok, warning

PATIENCE = 30.0  # seconds
NODES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
MOUNT = "in a container: --device /dev/davinciN " + " ".join(f"--device {node}" for node in NODES)
DRIVER = "in a container mount /usr/local/Ascend/driver, /usr/local/dcmi and /usr/local/bin/npu-smi too"


@dataclass(frozen=True)
class Chip:
    """One chip. number: of the card; total, used: MiB of its memory (HBM where it has it)."""

    number: str
    chip: str
    name: str
    health: str
    used: int
    total: int


@dataclass(frozen=True)
class Table:
    """What `npu-smi info` prints. users: (card, process id, name)."""

    version: str
    chips: tuple[Chip, ...]
    users: tuple[tuple[str, str, str], ...]


def read_table(text: str) -> Table:
    """The table in parts.

    Every chip has two rows: card, name, health; then chip, bus and memory, of which the last pair of numbers is the one
    that models live in (HBM on 910, the only one on 310P). A3 shows its chips as `Ascend910`, with a physical id.
    """
    version = re.search(r"npu-smi\s+(\S+)", text)
    first = re.compile(r"^\|\s*(\d+)\s+(\S+)\s*\|\s*(OK|Warning|Alarm|Critical|UNKNOWN|Offline|NA)\s*\|", re.I)
    chips, users, card = [], [], None
    for line in text.splitlines():
        top = first.match(line.strip())
        if top:
            card = top.groups()
            continue
        memory = re.findall(r"(\d+)\s*/\s*(\d+)", line)
        below = re.match(r"^\|\s*(\d+)(?:\s+\d+)?\s*\|", line.strip())
        if card and below and memory:
            chips.append(Chip(card[0], below[1], card[1], card[2], int(memory[-1][0]), int(memory[-1][1])))
            card = None
            continue
        user = re.match(r"^\|\s*(\d+)\s+\d+\s*\|\s*(\d+)\s*\|\s*(\S*)\s*\|\s*\d+\s*\|", line.strip())
        if user:
            users.append((user[1], user[2], user[3]))
    return Table(version[1] if version else "", tuple(chips), tuple(users))


def check_npu_smi(machine: Machine) -> tuple[list[Finding], Table]:
    """The devices and the driver that answers for them; an empty table where it does not."""
    answer = machine.run(("npu-smi", "info"), PATIENCE)
    nodes = machine.paths("/dev/davinci[0-9]*")
    nothing = Table("", (), ())
    if answer is None:
        if not nodes:
            return [], nothing
        return [
            warning("npu-smi", "not found, though /dev/davinci* is there", DRIVER),
            _nodes(machine, nodes),
        ], nothing
    table = read_table(answer.out)
    if answer.code != 0 or not table.chips:
        return [_silent(answer), _nodes(machine, nodes)], table
    findings = [ok("npu-smi", f"{table.version}: {_named(table)}"), _nodes(machine, nodes)]
    for chip in table.chips:
        if chip.health.upper() != "OK":
            said = f"NPU {chip.number} chip {chip.chip} ({chip.name}): health is {chip.health}"
            findings.append(
                error(
                    "NPU health",
                    said,
                    f"npu-smi info -t health -i {chip.number}; leave it out by ASCEND_RT_VISIBLE_DEVICES",
                )
            )
    return findings + _users(table), table


def _named(table: Table) -> str:
    """`8 x 910B3, 64 GiB` for each kind of chip."""
    kinds: dict[str, list[int]] = {}
    for chip in table.chips:
        kinds.setdefault(chip.name, []).append(chip.total)
    return ", ".join(f"{len(sizes)} x {name}, {min(sizes) / 1024:.0f} GiB" for name, sizes in kinds.items())


def _users(table: Table) -> list[Finding]:
    """Memory that other processes hold; a chip at rest has some 3 GiB of its own in use on 910, 2 on 310P."""
    if not table.users:
        return [ok("NPU memory", "no process uses an NPU")]
    said = ", ".join(f"NPU {card}: {name or 'process'} ({process})" for card, process, name in table.users[:8])
    more = f" and {len(table.users) - 8} more" if len(table.users) > 8 else ""
    return [
        warning(
            "NPU memory",
            f"in use by {said}{more}",
            "wait for them, or choose other devices by ASCEND_RT_VISIBLE_DEVICES (ascending)",
        )
    ]


def _nodes(machine: Machine, nodes: list[str]) -> Finding:
    missing = [node for node in NODES if not machine.paths(node)]
    if not nodes:
        return error("NPU devices", "no /dev/davinci* here", f"{MOUNT}; {DRIVER}")
    said = f"{len(nodes)} device node(s), {nodes[0]} first"
    if missing:
        return error("NPU devices", f"{said}; missing: {', '.join(missing)}", MOUNT)
    return ok("NPU devices", said)


def _silent(answer: Answer) -> Finding:
    """npu-smi is there and lists nothing."""
    if answer.code is None:
        return error(
            "npu-smi",
            f"did not answer within {PATIENCE:.0f} s",
            "the driver hangs: restart the machine; `dmesg | grep -i devdrv`",
        )
    lines = [line.strip() for line in (answer.out + answer.err).splitlines() if line.strip()]
    said = next((line for line in lines if "dcmi" in line), lines[-1] if lines else f"exit code {answer.code}")
    if re.search(r"-8020|-8005|is used", said):
        return error(
            "npu-smi",
            said,
            f"another container holds the device (only one may), or it is not mounted; {MOUNT}; {DRIVER}",
        )
    if "-8006" in said or "permission" in said.lower():
        return error("npu-smi", said, "this user may not open the device: join the group of /dev/davinci* (HwHiAiUser)")
    if "shared librar" in said or "cannot open" in said:
        return error(
            "npu-smi",
            said,
            f"the driver's libraries are not found: add /usr/local/Ascend/driver/lib64, "
            f"/common and /driver below it to LD_LIBRARY_PATH; {DRIVER}",
        )
    return error("npu-smi", said, f"the driver does not answer; {MOUNT}; {DRIVER}")
