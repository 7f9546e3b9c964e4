"""What `pip install` gives: an sdist, the wheel built of it, and its commands in an environment far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from finetune import __version__
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
BUILT_OF = ("finetune", "recipes", "data_templates")
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)


def built(what: str, source: Path, output: Path) -> Path:
    """What setuptools makes of the folder, as pip and build ask it to, with the setuptools that is here."""
    done = run(sys.executable, "-c", BUILD, what, output, cwd=source)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> tuple[Path, Path]:
    """(sdist, wheel): the sdist of a copy of the checkout with some rubbish in it, the wheel of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    rubbish = shutil.ignore_patterns("__pycache__", ".*")
    for name in BUILT_OF:
        shutil.copytree(ROOT / name, source / name, ignore=rubbish)
    (source / "scripts").mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt", "scripts/build_packs.py"):
        shutil.copy(ROOT / name, source / name)
    (source / "recipes/.mining.yaml.swp").write_text("an editor's")
    sdist = built("build_sdist", source, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, built("build_wheel", unpacked, folder)


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    """The bin folder of a fresh environment that has the wheel, and beside it what this one has (no network)."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q", "--no-deps", "--no-index")
    done = run(*pip, dist[1], cwd=folder)
    assert done.returncode == 0, done.stderr
    # Only now, or pip would take the editable install of this environment for an older version. A plain path: no .pth
    # file in it is read, so the checkout does not come along.
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


def test_the_wheel_holds_all_that_is_shipped_and_nothing_else(dist):
    names = {name for name in zipfile.ZipFile(dist[1]).namelist() if "dist-info/" not in name}
    here = {
        file.relative_to(ROOT).as_posix()
        for name in BUILT_OF
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }
    here = {name if name.startswith("finetune/") else f"finetune/packs/{name}" for name in here}
    assert names == here | {"finetune/packs/constraints.txt"}
    assert dist[1].name == f"finetune-{__version__}-py3-none-any.whl"
    with tarfile.open(dist[0]) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops == {
        *BUILT_OF, "scripts", "finetune.egg-info", "pyproject.toml", "setup.cfg", "MANIFEST.in", "PKG-INFO", "README.md",
        "LICENSE", "constraints.txt",
    }  # fmt: skip


def test_its_commands_work_far_from_the_checkout(installed, tmp_path):
    """Help, version, the list, a child of a shipped recipe, both checked; nothing is written where the package lies."""
    where = run(installed / "python", "-c", "import finetune; print(finetune.__file__)", cwd=tmp_path).stdout.strip()
    package = Path(where).parent
    assert package.is_relative_to(installed.parent)
    before = sorted(package.rglob("*"))
    program = installed / "finetune"
    assert run(program, "--version", cwd=tmp_path).stdout == f"{__version__}\n"
    assert "check" in run(program, "--help", cwd=tmp_path).stdout
    listed = run(program, "new", "recipe", cwd=tmp_path).stdout.splitlines()
    assert "meteorology/metar_decode" in [line.split()[0] for line in listed] and len(listed) > 60
    said = "right; 2400 samples to train on, 200 held out\n"
    shipped = run(program, "check", "pack:meteorology/metar_decode", cwd=tmp_path)
    assert shipped.stdout == f"{package}/packs/recipes/meteorology/metar_decode.yaml: {said}", shipped.stderr
    assert (
        run(program, "new", "recipe", "meteorology/metar_decode", "--output", "mine.yaml", cwd=tmp_path).returncode == 0
    )
    assert run(program, "check", "mine.yaml", cwd=tmp_path).stdout == f"mine.yaml: {said}"
    assert sorted(package.rglob("*")) == before
