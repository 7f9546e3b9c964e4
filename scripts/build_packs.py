"""The build's own step: wheels hold recipes/, data_templates/ and constraints.txt in finetune/packs/ (finetune/shipped.py).

setuptools finds it through pyproject.toml; what an sdist needs of it stands in MANIFEST.in. An editable install needs
none of it: there the checkout's own folders are used.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools.command.build_py import build_py

FOLDERS = ("recipes", "data_templates")
INTO = Path("finetune/packs")


class BuildWithPacks(build_py):
    """setuptools' build_py, and a copy of the shipped files."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source in _shipped():
                target = Path(self.build_lib) / INTO / source
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What `run` writes: for the list of installed files."""
        packs = [] if self.editable_mode else [str(Path(self.build_lib) / INTO / source) for source in _shipped()]
        return [*super().get_outputs(include_bytecode), *packs]


def _shipped() -> list[Path]:
    """The files to be copied, from the project's folder: no hidden ones, which editors and runs leave behind."""
    found = [Path("constraints.txt")]
    for name in FOLDERS:
        for folder, inner, files in os.walk(name):
            inner[:] = [entry for entry in inner if not entry.startswith((".", "__"))]
            found += [Path(folder, file) for file in files if not file.startswith(".")]
    return sorted(found)
