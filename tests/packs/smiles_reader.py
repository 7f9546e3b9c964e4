"""Atoms, rings and hydrogen bond donors counted in a SMILES' text (http://opensmiles.org/opensmiles.html), without RDKit."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|[BCNOPSFIbcnops]|%\d\d|[0-9]|[()=#$:/\\.-]")
BRACKET = re.compile(r"\[\d*([A-Z][a-z]?|[a-z])@*H?(\d*)")
HALOGENS = dict.fromkeys(("F", "Cl", "Br", "I"), (1,))
VALENCES = {"B": (3,), "C": (4,), "N": (3, 5), "O": (2,), "P": (3, 5), "S": (2, 4, 6)} | HALOGENS
ORDER = {"=": 2, "#": 3, "$": 4}


@dataclass
class Atom:
    symbol: str
    bonds: int = 0
    hydrogens: int | None = None  # written in brackets; else what its valence leaves


def count(smiles: str) -> tuple[int, int, int]:
    """Heavy atoms; rings, as many as bonds beyond those of a tree; donors: N, O and S with a hydrogen.

    Rings are bonds - atoms + parts (Euler), which is the size of the smallest set of smallest rings. A donor is what
    Lipinski's rule and RDKit count: an atom, however many hydrogens it has.
    """
    atoms: list[Atom] = []
    before: list[int] = []  # the atom that the next one is bound to, one for each open branch
    last, order, bonds, parts = -1, 1, 0, 1
    open_rings: dict[str, tuple[int, int]] = {}
    for token in TOKEN.findall(smiles):
        if token in ORDER:
            order = ORDER[token]
        elif token == "(":
            before.append(last)
        elif token == ")":
            last = before.pop()
        elif token == ".":
            last, parts = -1, parts + 1
        elif token[0] in "0123456789%":
            if token in open_rings:
                other, said = open_rings.pop(token)
                order = max(order, said)
                atoms[other].bonds += order
                atoms[last].bonds += order
                bonds += 1
            else:
                open_rings[token] = (last, order)
            order = 1
        elif token[0] not in "-:/\\":
            atoms.append(atom(token))
            if last >= 0:
                atoms[last].bonds += order
                atoms[-1].bonds += order
                bonds += 1
            last, order = len(atoms) - 1, 1
    donors = sum(one.symbol.upper() in ("N", "O", "S") and hydrogens(one) > 0 for one in atoms)
    return sum(one.symbol != "H" for one in atoms), bonds - len(atoms) + parts, donors


def atom(token: str) -> Atom:
    if not token.startswith("["):
        return Atom(token)
    found = BRACKET.match(token)
    assert found, token
    has = re.match(r"\[\d*(?:[A-Z][a-z]?|[a-z])@*H(\d*)", token)
    return Atom(found[1], hydrogens=int(has[1] or 1) if has else 0)


def hydrogens(one: Atom) -> int:
    """Those of an atom without brackets fill its lowest valence that its bonds fit; aromatic n, o and s have none."""
    if one.hydrogens is not None:
        return one.hydrogens
    if one.symbol.islower():
        return 0
    return next((valence - one.bonds for valence in VALENCES[one.symbol] if valence >= one.bonds), 0)
