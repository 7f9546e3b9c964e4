"""ESOL's measured solubilities (Delaney 2004, doi:10.1021/ci034243x) as rows of AqSolDB's columns.

    python -m scripts.make pharma/solubility --from delaney.csv --output data_templates/pharma/solubility.sample.jsonl

made the sample out of https://github.com/PatWalters/solubility (MIT, commit d1536c58afe5e0e7ac4c96e2ffef496d5b98664b).
AqSolDB's own data_curated.csv needs no conversion: the template reads it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import Descriptors

MEASURED = "measured log(solubility:mol/L)"


def read(path: Path) -> Iterator[dict]:
    """Each molecule once: of those listed under two names, whose values differ by up to 1.9, the first."""
    seen: set[str] = set()
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            smiles = row["SMILES"].strip()
            molecule = Chem.MolFromSmiles(smiles)
            key = Chem.MolToInchiKey(molecule)
            if key not in seen:
                seen.add(key)
                yield {
                    "ID": row["Compound ID"].strip(),
                    "SMILES": smiles,
                    "Solubility": float(row[MEASURED]),
                    "NumValenceElectrons": float(Descriptors.NumValenceElectrons(molecule)),
                }
