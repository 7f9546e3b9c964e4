"""The rank table, where one is named: HCCL takes it as it stands, and fails at the first collective if it is wrong."""

from __future__ import annotations

import json
from typing import Any

from finetune.device.machine import Machine
from finetune.doctor.finding import Finding, error, ok, warning

SUBJECT = "HCCL rank table"


def check_rank_table(machine: Machine) -> list[Finding]:
    """RANK_TABLE_FILE: a plain readable JSON file that names every device once.

    Source: Ascend/pytorch docs, RANK_TABLE_FILE (a missing file is passed over in silence; no symbolic links; wrong
    contents fail when the first collective runs), and CANN's description of the file (versions 1.0 and, for A3, 1.2).
    """
    path = machine.env.get("RANK_TABLE_FILE")
    if not path:
        return []
    text = machine.read(path)
    if text is None:
        return [
            warning(
                SUBJECT,
                f"RANK_TABLE_FILE={path}: can't be read; HCCL goes on without it",
                "correct the path, or unset it",
            )
        ]
    if machine.is_link(path):
        return [error(SUBJECT, f"{path} is a symbolic link: HCCL refuses it", "name the file itself")]
    try:
        table = json.loads(text)
        problems, count = judge(table)
    except ValueError as mistake:
        return [error(SUBJECT, f"{path}: no JSON: {mistake}", "write it again; hccl_tools.py of MindSpore makes one")]
    except (TypeError, KeyError, AttributeError) as mistake:
        return [error(SUBJECT, f"{path}: not in the form of a rank table ({mistake!r})", "see CANN's HCCL guide")]
    if problems:
        return [
            error(SUBJECT, f"{path}: {problem}", "correct the file, or unset RANK_TABLE_FILE") for problem in problems
        ]
    said = f"{path}: {count} devices on {len(table['server_list'])} server(s)"
    world = machine.env.get("WORLD_SIZE")
    if world and world != str(count):
        return [
            error(
                SUBJECT, f"{said}; WORLD_SIZE is {world}", "the table must list exactly the launched processes' devices"
            )
        ]
    return [ok(SUBJECT, said)]


def judge(table: dict[str, Any]) -> tuple[list[str], int]:
    """What is wrong with a rank table, and how many devices it lists.

    Raises:
        TypeError, KeyError, AttributeError, ValueError: it is not in the form of one.
    """
    servers = table["server_list"]
    devices = [(server["server_id"], device) for server in servers for device in server["device"]]
    ranks = sorted(int(device["rank_id"]) for _, device in devices)
    places = [(server, str(device["device_id"])) for server, device in devices]
    problems = []
    if table.get("status") != "completed":
        problems.append(f"status is {table.get('status')!r}, not 'completed'")
    if str(table.get("server_count", len(servers))) != str(len(servers)):
        problems.append(f"server_count is {table['server_count']}, {len(servers)} server(s) are listed")
    if ranks != list(range(len(ranks))):
        problems.append(f"rank_id must be 0 to {len(ranks) - 1}, each once; they are {ranks}")
    for server, device in dict.fromkeys(place for place in places if places.count(place) > 1):
        problems.append(f"server {server}: device_id {device} is listed twice")
    if len(servers) > 1:
        silent = [f"{server} device {device['device_id']}" for server, device in devices if not device.get("device_ip")]
        problems += [f"no device_ip, needed between servers: {', '.join(silent)}"] if silent else []
    return problems, len(devices)
