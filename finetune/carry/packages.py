"""The distributions that a run needs, as they are installed here: names, versions, and a hash of what was installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from finetune.errors import RecipeError

# What an installer adds to what a wheel holds, and what it changes (the paths of programs).
_ADDED = re.compile(r"(\.pyc$|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|^\.\./)")

Distribution = importlib.metadata.Distribution


@dataclass(frozen=True)
class Package:
    """A distribution: its name and version, and the sha256 over names and hashes of its files out of pip's RECORD, the
    same wherever the same wheel is installed; None: an editable install, or one without RECORD."""

    name: str
    version: str
    record_sha256: str | None

    @property
    def requirement(self) -> str:
        """As a line of requirements.txt."""
        return f"{self.name}=={self.version}"


def packages_of(
    extras: Iterable[str],
    imported: Sequence[str] = (),
    find: Callable[[str], Distribution] = importlib.metadata.distribution,
) -> list[Package]:
    """finetune and its extras with all that they require, and the packages that recipes name (`pkg:NAME`), of which
    only files are read; sorted by name.

    Args:
        extras: of finetune.
        imported: names of packages as Python imports them.
        find: a distribution by its name; raises PackageNotFoundError.

    Raises:
        RecipeError: what is not installed here, each with what to install.
    """
    homes = importlib.metadata.packages_distributions()
    found: dict[str, Package] = {}
    missing: dict[str, str] = {}
    visited: set[tuple[str, str]] = set()
    asked = [("finetune", "", extra) for extra in ("", *sorted(extras))]
    bare = {canonicalize_name(homes[name][0] if name in homes else name) for name in imported}
    asked += [(name, "a base", "") for name in bare]
    while asked:
        name, by, extra = asked.pop()
        key = canonicalize_name(name)
        if (key, extra) in visited:
            continue
        visited.add((key, extra))
        try:
            distribution = find(name)
        except importlib.metadata.PackageNotFoundError:
            missing[key] = by
            continue
        found[key] = Package(key, distribution.version, _record(distribution))
        for text in [] if key in bare else distribution.requires or []:
            need = Requirement(text)
            own = " ".join(re.findall(r"extra == ", text))  # with an extra asked for, only its own lines are new
            if (bool(own) == bool(extra)) and (need.marker is None or need.marker.evaluate({"extra": extra})):
                wanted_by = f"finetune[{extra}]" if key == "finetune" and extra else key
                asked += [(need.name, wanted_by, more) for more in ("", *sorted(need.extras))]
    if missing:
        raise RecipeError(
            [f"{name}: needed by {by}, is not installed here, so its version is not known: pip install {_whole(name, by)}"
             for name, by in sorted(missing.items())]
        )  # fmt: skip
    return [found[name] for name in sorted(found)]


def _whole(name: str, by: str) -> str:
    return f"'{by}'" if by.startswith("finetune[") else name


def _record(distribution: Distribution) -> str | None:
    """See Package. RECORD's lines are `path,sha256=...,size`."""
    lines = [line for line in (distribution.read_text("RECORD") or "").splitlines() if line]
    if not lines or any("__editable__" in line for line in lines):
        return None
    kept = sorted(line for line in lines if not _ADDED.search(line.rsplit(",", 2)[0]))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()
