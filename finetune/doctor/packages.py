"""Python and the libraries, against the ranges of the installed finetune's own metadata and against the tested set."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass

from finetune.device.machine import Machine
from finetune.doctor.finding import Finding, error, ok, warning

NAME = "finetune"
FOR_DEVELOPERS = ("dev", "generate")  # extras that no user's job needs


@dataclass(frozen=True)
class Need:
    """One requirement. `extra`: the optional one that asks for it; "" for all."""

    name: str
    allowed: str
    extra: str


def check_packages(machine: Machine) -> list[Finding]:
    """A line for Python, one for each library that every job needs, one for all optional ones that are as they should be."""
    requirements = machine.requires(NAME)
    if not requirements:
        return [
            warning(
                "finetune",
                "not installed as a package: which versions it needs is not known here",
                "pip install -e . in the checkout (with -c constraints.txt: the tested set)",
            ),
        ]
    if importlib.util.find_spec("packaging") is None:
        return [error("packaging", "not installed: versions can't be compared", "pip install packaging")]
    needs, tested = [need(text) for text in requirements], machine.tested()
    required = {n.name: n for n in needs if not n.extra}
    optional = {
        n.name: n for n in needs if n.extra and n.extra not in FOR_DEVELOPERS and n.name not in (*required, NAME)
    }
    found = [python(machine), *(library(machine, one, tested.get(one.name)) for one in required.values())]
    return found + optionals(machine, list(optional.values()))


def python(machine: Machine) -> Finding:
    """This Python against the metadata's Requires-Python."""
    allowed = machine.requires_python(NAME) or ""
    if allowed and not within(machine.python, allowed):
        return error("Python", f"{machine.python}; finetune needs {allowed}", "make an environment with that Python")
    return ok("Python", f"{machine.python} (needed: {allowed or 'any'})")


def library(machine: Machine, one: Need, tested: str | None) -> Finding:
    """One that is needed by every job."""
    version = machine.version(one.name)
    wanted = f'pip install "{one.name}{one.allowed}"' if tested is None else f"pip install {one.name}=={tested}"
    if version is None:
        return error(one.name, f"not installed; needed: {one.allowed or 'any'}", wanted)
    if one.allowed and not within(version, one.allowed):
        return error(one.name, f"{version} is outside {one.allowed}", wanted)
    said = f"{version} (needed: {one.allowed or 'any'}" + (f"; tested: {tested})" if tested else ")")
    if tested and minor(version) > minor(tested):
        return warning(one.name, f"{said}: newer than what is tested", f"if something breaks: {wanted}")
    return ok(one.name, said)


def optionals(machine: Machine, needs: list[Need]) -> list[Finding]:
    """What extras bring: an error for each that is here in a version that is not allowed, one line for all others."""
    wrong, right, absent = [], [], []
    for one in needs:
        version = machine.version(one.name)
        if version is None:
            absent.append(f"{one.name} [{one.extra}]")
        elif one.allowed and not within(version, one.allowed):
            said = f"{version} is outside {one.allowed}, which finetune[{one.extra}] needs"
            wrong.append(error(one.name, said, f'pip install "{one.name}{one.allowed}"'))
        else:
            right.append(f"{one.name} {version}")
    here = ", ".join(right) or "none"
    said = f"{here}; not installed: {', '.join(absent)}" if absent else here
    return [*wrong, ok("optional libraries", said)]


def need(text: str) -> Need:
    """`peft<0.22,>=0.20; extra == "x"` in parts; the range is put lowest first."""
    match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*;?(.*)", text)
    assert match, text
    extra = re.search(r"extra\s*==\s*[\"']([\w-]+)", match[3])
    allowed = ",".join(sorted((part.strip() for part in match[2].split(",") if part.strip()), reverse=True))
    return Need(match[1].lower().replace("_", "-"), allowed, extra[1] if extra else "")


def within(version: str, allowed: str) -> bool:
    """Whether a version lies in a range; a release candidate or a build of one (+cpu) counts as the version it is."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(allowed).contains(version, prereleases=True)


def minor(version: str) -> tuple[int, ...]:
    """(2, 13) of 2.13.0+cpu."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:2])
