"""Every package's version in another set than the tested one, as pip's constraints on stdout.

    python scripts/version_limits.py oldest [torch==VERSION ...]
    python scripts/version_limits.py newest [torch==VERSION ...]     # further constraints; both need uv (pip install uv)

oldest: of dependencies and of the extras that users install, the least versions that pyproject.toml allows and that go
together; what only makes the documents, generates samples or tests is new. newest: all as new as pyproject.toml allows.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_OF_USERS = ("docs", "generate", "dev", "deepspeed")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def main() -> None:
    chosen, *limits = sys.argv[1:]
    if chosen == "oldest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = [name for name in project["optional-dependencies"] if name not in NOT_OF_USERS]
        lines = [
            *project["dependencies"],
            *(line for name in extras for line in project["optional-dependencies"][name]),
        ]
        named = {normal(found[0]) for line in lines if (found := NAME.match(line))}
        least = resolved(extras, limits, "lowest-direct")
        limits = [line for line in least if normal(line.partition("==")[0]) in named]
    print(*resolved(["dev"], limits, "highest"), sep="\n")


def resolved(extras: Sequence[str], limits: Sequence[str], resolution: str) -> list[str]:
    """`name==version` of everything that the project with these extras needs."""
    options = ["-q", "--system-certs", "--no-header", "--no-annotate", "--resolution", resolution, "--constraints", "-"]
    options += ["--python", sys.executable, *(word for name in extras for word in ("--extra", name))]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, "pyproject.toml"]
    done = subprocess.run(command, input="\n".join(limits), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def normal(name: str) -> str:
    """As PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
