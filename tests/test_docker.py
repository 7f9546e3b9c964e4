"""scripts/docker/: clean for hadolint; what the files name is there, nothing else gets in, and nobody is root."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "scripts/docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
PINS = dict(re.findall(r"^([^#=]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (FOLDER / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_both_are_here():
    assert [file.name for file in FILES] == ["ascend.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed; the extra dev has it")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint(file):
    done = subprocess.run(["hadolint", "--no-color", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_in_the_image(file):
    """The base has a tag; the tested versions; extras that exist, installed before the code; the last user is no root."""
    steps = instructions(file.name)
    arguments = dict(rest.split("=", 1) for kind, rest in steps if kind == "ARG" and "=" in rest)
    (base,) = [rest for kind, rest in steps if kind == "FROM"]
    for name, value in arguments.items():
        base = base.replace(f"${{{name}}}", value)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", base) and not base.endswith(":latest")
    assert [rest for kind, rest in steps if kind == "USER"] == ["$UID"] and int(arguments["UID"]) > 0
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(arguments["EXTRAS"].split(",")) <= extras.keys()
    installs = [rest for kind, rest in steps if kind == "RUN" for rest in rest.split("&&") if "pip install" in rest]
    assert all("-c constraints.txt" in line or "--no-deps" in line for line in installs)
    copies = [rest.rsplit(" ", 1)[0] for kind, rest in steps if kind == "COPY"]
    assert copies == ["constraints.txt", "pyproject.toml", "finetune/__init__.py", "scripts/build_packs.py", "."]
    secret = re.compile(r"secret|password|token|_key\b", re.IGNORECASE)
    assert not [rest for kind, rest in steps if kind in ("ARG", "ENV", "ADD") and secret.search(rest)]


def test_ascend_goes_together():
    """torch_npu is made for the very torch of constraints.txt; no bitsandbytes; the chips by the tag of the base."""
    steps = instructions("ascend.Dockerfile")
    arguments = dict(rest.split("=", 1) for kind, rest in steps if kind == "ARG")
    assert arguments["TORCH_NPU"] == PINS["torch"]
    assert not {"quantized", "optim"} & set(arguments["EXTRAS"].split(","))
    assert (ROOT / "scripts/docker/ascend.Dockerfile").read_text().count("bitsandbytes") == 1  # said in a comment
    assert dict(steps)["FROM"] == "quay.io/ascend/cann:${CANN_VERSION}-${CHIP}-${OS}-${PYTHON}"
    assert arguments["CHIP"] == "910b"


def test_what_docker_is_given():
    """.dockerignore lets in what the images need, and by name only."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "finetune", "recipes", "data_templates", "scripts",
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in let_in)
    shut = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    assert [
        name for name in (".env", ".env.local", "__pycache__") if not any(fnmatch.fnmatch(name, one) for one in shut)
    ] == []
