"""Ascend's lines: npu-smi, driver, CANN, kernels, the documented pairs, processors, the rank table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune.device.compatibility import PAIRINGS, PYTHONS, pairing, processor, python_problem, same_cann
from finetune.device.machine import Answer
from finetune.doctor.cann import find_cann, read_cann
from finetune.doctor.hccl import check_rank_table
from finetune.doctor.npu_smi import Chip, Table, read_table
from tests.doctor.recorded_machine import HOME, Recorded, ask, lines, npu_works, recorded, with_npus


def said(machine: Recorded, capsys: pytest.CaptureFixture[str], *subjects: str) -> tuple[int, list[str]]:
    code = ask(machine)
    return code, lines(capsys.readouterr().out, *subjects)


ALL = ("npu-smi", "NPU", "CANN", "torch-npu", "Ascend", "SoC")


def test_two_910b3(capsys):
    assert said(with_npus(), capsys, *ALL) == (0, [
        "ok npu-smi 24.1.rc3: 2 x 910B3, 64 GiB",
        "ok NPU devices 2 device node(s), /dev/davinci0 first",
        "ok NPU memory no process uses an NPU",
        "ok NPU driver 24.1.rc3",
        "ok NPU firmware 7.5.0.1.129",
        f"ok CANN 9.1.0 in {HOME}",
        "ok CANN environment ASCEND_HOME_PATH and LD_LIBRARY_PATH are set",
        "ok CANN kernels 310p, 910_93, 910b",
        "ok torch-npu torch_npu 2.12.0 computes on 2 NPU(s)",
        "ok Ascend versions torch_npu 2.12.0 with CANN 9.1.0: a documented pair",
        "ok SoC Ascend910B3: Atlas A2, training, float16 and bfloat16",
    ])  # fmt: skip


def test_an_a3(capsys):
    """npu-smi calls its chips Ascend910: only torch knows the SoC."""
    a3 = "npu_smi_910_9391.txt"
    assert said(with_npus(a3, npu_works("Ascend910_9391", True)), capsys, "npu-smi", "SoC") == (0, [
        "ok npu-smi 26.0.rc2: 2 x Ascend910, 64 GiB",
        "ok SoC Ascend910_9391: Atlas A3, training, float16 and bfloat16",
    ])  # fmt: skip
    broken = Answer(0, recorded("probe_cann_missing.txt"))
    assert said(with_npus(a3, broken), capsys, "SoC") == (2, [
        "ok SoC Ascend910 by npu-smi, as it calls the chips of Atlas A3; torch says more when it works",
    ])  # fmt: skip


def test_a_310p3_in_use(capsys):
    assert said(with_npus("npu_smi_310p3.txt", npu_works("Ascend310P3", False)), capsys, "npu-smi", "NPU memory", "SoC") == (0, [
        "ok npu-smi 25.0.rc1.1: 2 x 310P3, 43 GiB",
        "warning NPU memory in use by NPU 6: python3.11 (293029)",
        "do: wait for them, or choose other devices by ASCEND_RT_VISIBLE_DEVICES (ascending)",
        "warning SoC Ascend310P3: Atlas inference (310P), inference only, float16, no bfloat16",
        "do: train elsewhere; here evaluate, and serve in float16 (export.dtype: float16)",
    ])  # fmt: skip


def test_tables_in_parts():
    duo = read_table(recorded("npu_smi_310p3.txt"))
    chips = (Chip("6", "0", "310P3", "OK", 1175, 44280), Chip("6", "1", "310P3", "OK", 8322, 43693))
    assert duo == Table("25.0.rc1.1", chips, (("6", "293029", "python3.11"),))
    a3 = read_table(recorded("npu_smi_910_9391.txt"))
    chips = (Chip("0", "0", "Ascend910", "OK", 3419, 65536), Chip("0", "1", "Ascend910", "OK", 2874, 65536))
    assert a3 == Table("26.0.rc2", chips, ())


def test_a_sick_chip(capsys):
    text = recorded("npu_smi_910b3.txt").replace(
        "| 1     910B3               | OK     ", "| 1     910B3               | Alarm  "
    )
    machine = with_npus()
    machine = replace(machine, commands={**machine.commands, "npu-smi": Answer(0, text)})
    assert said(machine, capsys, "NPU health") == (2, [
        "error NPU health NPU 1 chip 0 (910B3): health is Alarm",
        "do: npu-smi info -t health -i 1; leave it out by ASCEND_RT_VISIBLE_DEVICES",
    ])  # fmt: skip


def test_a_device_that_another_container_holds(capsys):
    machine = with_npus()
    machine = replace(machine, commands={**machine.commands, "npu-smi": Answer(1, recorded("npu_smi_taken.txt"))})
    code, found = said(machine, capsys, "npu-smi")
    assert (code, found[0]) == (
        2, "error npu-smi dcmi model initialized failed, because the device is used. ret is -8020",
    )  # fmt: skip
    assert found[1].startswith(
        "do: another container holds the device (only one may), or it is not mounted; in a container: "
    )


def test_a_container_without_the_driver(capsys):
    """The device is passed in, what else it needs is not."""
    machine = with_npus()
    files = {path: text for path, text in machine.files.items() if "driver" not in path and "firmware" not in path}
    machine = replace(machine, there=["/dev/davinci3"], files=files, commands={"npu-smi": None, "npu child": None})
    assert said(machine, capsys, "npu-smi", "NPU devices") == (2, [
        "warning npu-smi not found, though /dev/davinci* is there",
        "do: in a container mount /usr/local/Ascend/driver, /usr/local/dcmi and /usr/local/bin/npu-smi too",
        "error NPU devices 1 device node(s), /dev/davinci3 first; missing: /dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc",
        "do: in a container: --device /dev/davinciN --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc",
    ])  # fmt: skip


def test_firmware_and_driver_that_do_not_fit(capsys):
    machine = with_npus()
    path = "/usr/local/Ascend/firmware/version.info"
    machine = replace(
        machine, files={**machine.files, path: recorded("firmware_version.info").replace("7.5.0", "7.7.0")}
    )
    assert said(machine, capsys, "NPU firmware") == (2, [
        "error NPU firmware 7.7.0.1.129 is outside what driver 24.1.rc3 works with: 7.0.0 to 7.5.99",
        "do: install driver and firmware of one Ascend HDK release, restart",
    ])  # fmt: skip


@pytest.mark.parametrize(("env", "line", "remedy"), [
    ({}, "error CANN environment set_env.sh was not sourced (ASCEND_HOME_PATH is not set)",
     "do: source /usr/local/Ascend/ascend-toolkit/set_env.sh in the shell that starts Python"),
    ({"ASCEND_HOME_PATH": HOME}, f"error CANN environment LD_LIBRARY_PATH lacks {HOME}/lib64",
     "do: source /usr/local/Ascend/ascend-toolkit/set_env.sh in the shell that starts Python; sudo and some launchers drop "
     "the variable"),
    ({"ASCEND_HOME_PATH": "/opt/gone"}, f"error CANN ASCEND_HOME_PATH=/opt/gone: no such folder; 9.1.0 is in {HOME}",
     "do: source /usr/local/Ascend/ascend-toolkit/set_env.sh in a fresh shell, before Python starts"),
    ({"ASCEND_HOME_PATH": HOME, "LD_LIBRARY_PATH": f"/opt/cann8/lib64:{HOME}/lib64"},
     "warning CANN environment LD_LIBRARY_PATH has another CANN too: /opt/cann8/lib64",
     "do: one set_env.sh only, in a fresh shell: mixed libraries crash"),
])  # fmt: skip
def test_an_environment_without_cann(env, line, remedy, capsys):
    machine = with_npus(env=env, probe=Answer(0, recorded("probe_cann_missing.txt")))
    machine = replace(machine, there=[*machine.there, "/opt/cann8/lib64/libascendcl.so"])
    code, found = said(machine, capsys, "CANN", "CANN environment")
    assert code == 2
    assert [text for text in found if "CANN kernels" not in text][-2:] == [line, remedy]


def test_a_path_through_the_link_is_the_same_cann(capsys):
    """set_env.sh names `latest`, images the folder that it leads to."""
    real = "/usr/local/Ascend/ascend-toolkit/9.1.0"
    env = {"ASCEND_HOME_PATH": HOME, "LD_LIBRARY_PATH": f"{real}/lib64"}
    machine = with_npus(env=env, links={HOME: real})
    assert said(machine, capsys, "CANN environment")[1] == [
        "ok CANN environment ASCEND_HOME_PATH and LD_LIBRARY_PATH are set"
    ]


BROKEN = Answer(0, recorded("probe_kernels_async.txt"))  # sees two 910B3, computes nothing


def test_kernels_of_another_soc_or_none(capsys):
    machine = with_npus(probe=BROKEN)
    nodes = [path for path in machine.there if path.startswith("/dev")]
    kernels = f"{HOME}/opp/built-in/op_impl/ai_core/tbe/kernel"
    assert said(replace(machine, there=[*nodes, f"{kernels}/ascend310p"]), capsys, "CANN kernels") == (2, [
        "error CANN kernels for 310p only; this is Atlas A2",
        "do: install the kernels package for 910b in CANN's own version",
    ])  # fmt: skip
    assert said(replace(machine, there=nodes), capsys, "CANN kernels") == (2, [
        f"warning CANN kernels none found below {HOME}",
        "do: install the kernels package Ascend-cann-910b-ops (before 8.5: Ascend-cann-kernels-910b)",
    ])  # fmt: skip


def test_where_a_cann_says_its_version():
    install = {f"{HOME}/aarch64-linux/ascend_toolkit_install.info": recorded("toolkit_install.info")}
    assert read_cann(Recorded(files=install), HOME).version == "8.3.RC2"
    config = read_cann(Recorded(files={f"{HOME}/version.cfg": recorded("version.cfg")}), HOME)
    assert (config.version, config.parts["opp_kernel"]) == ("8.0.0", "8.0.0")
    assert (
        read_cann(Recorded(files={f"{HOME}/opp/version.info": recorded("opp_version.info")}), HOME).version == "8.5.0"
    )
    assert read_cann(Recorded(files={}), HOME).version is None
    assert find_cann(Recorded(files={})) is None


def test_what_looks_wrong_is_no_error_where_the_device_computes(capsys):
    """CANN from a place of its own, say: the probe added numbers on the NPU, which decides."""
    assert said(with_npus(env={}), capsys, "CANN environment") == (0, [
        "warning CANN environment set_env.sh was not sourced (ASCEND_HOME_PATH is not set)",
        "do: source /usr/local/Ascend/ascend-toolkit/set_env.sh in the shell that starts Python",
    ])  # fmt: skip
    emulated = Recorded(
        versions={"torch": "2.13.0", "torch-npu": "2.13.0"},
        requirements={"finetune": ["torch>=2.10"], "torch-npu": ["torch==2.13.0.*"]},
        commands={"npu child": Answer(0, recorded("probe_ok_emulated.txt"))},
    )
    assert said(emulated, capsys, *ALL) == (0, [
        "ok torch-npu torch_npu 2.13.0+emul computes on 2 NPU(s)",
        "ok SoC Ascend910B3 (CPU emulation): Atlas A2, training, float16 and bfloat16",
    ])  # fmt: skip


def test_components_of_two_versions(capsys):
    machine = with_npus(probe=BROKEN)
    mixed = recorded("version.cfg").replace(":8.0.0", ":9.1.0").replace("hccl_running_version=[7.6.0.1.220:9.1.0]",
                                                                      "hccl_running_version=[7.6.0.1.220:8.5.0]")  # fmt: skip
    machine = replace(machine, files={**machine.files, f"{HOME}/version.cfg": mixed})
    assert said(machine, capsys, "CANN components") == (2, [
        "error CANN components mixed: hccl 8.5.0 beside 9.1.0",
        "do: install all packages in one version; remove the others' folders",
    ])  # fmt: skip


def test_pairs_that_are_documented_unknown_or_others():
    assert pairing("2.12.0", "9.1.0").kind == "documented"
    assert pairing("2.12.0", "9.1.1").kind == "documented"
    fixed = pairing("2.12.0.post3", "9.1.0")
    assert (fixed.kind, fixed.what) == (
        "documented",
        "torch_npu 2.12.0.post3 with CANN 9.1.0: another correction (.postN) of a documented pair (2.12.0 with CANN 9.1.0)",
    )
    other = pairing("2.12.0", "8.5.0")
    assert (other.kind, other.what, other.remedy) == (
        "other",
        "torch_npu 2.12.0 with CANN 8.5.0: documented with CANN 9.1.0",
        "install CANN 9.1.0 (2.12.0 with CANN 9.1.0)",
    )
    assert pairing("2.13.0", "9.2.0").kind == pairing("2.13.0", "8.5.1").kind == "documented"
    unknown = pairing("2.15.0", "9.1.0")
    assert (unknown.kind, unknown.what) == (
        "unknown", "torch_npu 2.15.0 with CANN 9.1.0: no CANN is documented for this torch_npu",
    )  # fmt: skip
    assert same_cann("9.0.0", "9.0.1")
    assert same_cann("8.3.RC1", "8.3.rc1")
    assert not same_cann("9.0.0", "9.1.0")
    assert not same_cann("8.3.RC1", "8.3.RC2")


def test_the_matrix_in_the_report(capsys):
    versions = {"torch": "2.15.0", "torch-npu": "2.15.0"}
    pins = {"finetune": ["torch>=2.10"], "torch-npu": ["torch==2.15.0.*"]}
    assert said(with_npus(versions=versions, requirements=pins), capsys, "Ascend versions") == (0, [
        "warning Ascend versions torch_npu 2.15.0 with CANN 9.1.0: no CANN is documented for this torch_npu",
        "do: documented last: torch_npu 2.13.0 with CANN 9.2.0; look at COMPATIBILITY.md of github.com/Ascend/pytorch for a "
        "newer row",
    ])  # fmt: skip
    versions = {"torch": "2.10.0", "torch-npu": "2.10.0.post4"}
    pins = {"finetune": ["torch>=2.10"], "torch-npu": ["torch==2.10.0.*"]}
    assert said(with_npus(versions=versions, requirements=pins, python="3.14.1"), capsys, "Ascend versions") == (2, [
        "error Ascend versions torch_npu for torch 2.10.0 comes for Python 3.10, 3.11, 3.12, 3.13; this is 3.14",
        "do: make an environment with one of these",
        "ok Ascend versions torch_npu 2.10.0.post4 with CANN 9.1.0: a documented pair",
    ])  # fmt: skip


def test_every_pair_is_of_one_torch_and_has_its_pythons():
    for row in PAIRINGS:
        assert row.torch_npu.split(".post")[0] == row.torch
        assert python_problem(row.torch, f"{PYTHONS[row.torch][-1]}.0") is None
    assert python_problem("2.9.1", "3.14.0") is None  # not on the page: nothing is said


@pytest.mark.parametrize(("name", "family", "bf16"), [
    ("Ascend910B3", "Atlas A2", True), ("910B4-1", "Atlas A2", True), ("Ascend910B2C", "Atlas A2", True),
    ("Ascend910_9391", "Atlas A3", True), ("Ascend910A", "Ascend 910 (first generation)", False),
    ("Ascend910B", "Ascend 910 (first generation)", False), ("Ascend910PremiumA", "Ascend 910 (first generation)", False),
    ("Ascend310P3", "Atlas inference (310P)", False), ("Ascend950DT", "Ascend 950", True),
])  # fmt: skip
def test_processors_by_name(name, family, bf16):
    """bfloat16 as torch_npu 2.13.0 answers for these names (torch.npu.is_bf16_supported on a stand-in runtime)."""
    known = processor(name)
    assert known
    assert (known.family, known.bf16) == (family, bf16)
    assert processor("Ascend910") is None


def rank_table(**changes: object) -> Recorded:
    table = json.loads(recorded("rank_table.json")) | changes
    return Recorded(env={"RANK_TABLE_FILE": "/etc/ranks.json"}, files={"/etc/ranks.json": json.dumps(table)})


def test_rank_tables():
    """Right; unfinished; ranks with a hole and a device twice; two servers, one without addresses; no table at all."""
    right = check_rank_table(rank_table())
    assert [(f.status, f.what) for f in right] == [("ok", "/etc/ranks.json: 2 devices on 1 server(s)")]
    server = json.loads(recorded("rank_table.json"))["server_list"][0]
    first, second = server["device"]
    wrong = [{**server, "device": [first, {**second, "device_id": "0", "rank_id": "3"}]}]
    found = check_rank_table(rank_table(status="initializing", server_list=wrong, server_count="2"))
    assert [f.what.removeprefix("/etc/ranks.json: ") for f in found] == [
        "status is 'initializing', not 'completed'",
        "server_count is 2, 1 server(s) are listed",
        "rank_id must be 0 to 1, each once; they are [0, 3]",
        "server 10.0.0.10: device_id 0 is listed twice",
    ]
    two = [{**server, "device": [first]}, {"server_id": "10.0.0.11", "device": [{"device_id": "0", "rank_id": "1"}]}]
    found = check_rank_table(rank_table(server_list=two, server_count="2"))
    assert [f.what for f in found] == ["/etc/ranks.json: no device_ip, needed between servers: 10.0.0.11 device 0"]
    assert [f.status for f in check_rank_table(rank_table(server_list=[{"device": [{}]}]))] == ["error"]


def test_rank_tables_that_can_not_be_used():
    named = {"RANK_TABLE_FILE": "/etc/ranks.json"}
    absent = check_rank_table(Recorded(env=named, files={}))[0]
    assert (absent.status, absent.what) == (
        "warning", "RANK_TABLE_FILE=/etc/ranks.json: can't be read; HCCL goes on without it",
    )  # fmt: skip
    linked = check_rank_table(replace(rank_table(), links={"/etc/ranks.json": "/data/ranks.json"}))[0]
    assert (linked.status, linked.what) == ("error", "/etc/ranks.json is a symbolic link: HCCL refuses it")
    text = check_rank_table(Recorded(env=named, files={"/etc/ranks.json": "{"}))[0]
    assert (text.status, text.what.split(":")[1]) == ("error", " no JSON")
    more = replace(rank_table(), env={**named, "WORLD_SIZE": "4"})
    assert check_rank_table(more)[0].what == "/etc/ranks.json: 2 devices on 1 server(s); WORLD_SIZE is 4"
    assert check_rank_table(Recorded()) == []
