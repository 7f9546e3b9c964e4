"""Counts that RDKit finds in ESOL's molecules, under the names of AqSolDB's columns."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import Descriptors

ROWS, SEED = 1100, 17
MOLECULES = Path(__file__).parents[3] / "data_templates/pharma/solubility.sample.jsonl"
COUNTS = ("HeavyAtomCount", "RingCount", "NumAromaticRings", "NumHDonors", "NumHAcceptors", "NumValenceElectrons")


def make(rows: int, seed: int) -> list[dict]:
    molecules = [json.loads(line)["SMILES"] for line in MOLECULES.read_text(encoding="utf-8").splitlines()]
    if rows > len(molecules):
        raise SystemExit(f"--rows {rows}: there are {len(molecules)} molecules; ask for fewer")
    return [counted(smiles) for smiles in random.Random(f"smiles {seed}").sample(molecules, rows)]


def counted(smiles: str) -> dict:
    molecule = Chem.MolFromSmiles(smiles)
    return {"SMILES": smiles} | {name: int(getattr(Descriptors, name)(molecule)) for name in COUNTS}
