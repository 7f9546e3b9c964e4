"""Made-up names of drugs, so that no sample says a wrong thing of a real one. A likeness is chance."""

from __future__ import annotations

import random

STARTS = ("vel", "tor", "mar", "quin", "sob", "lax", "pir", "zen", "dor", "fel", "ruv", "cam")
MIDDLES = ("", "a", "i", "o", "eta", "ibu", "ora", "ulo")
ENDS = ("axine", "otrel", "imod", "azole", "entan", "idone", "uride", "amine", "osin", "ecid", "ilast", "opride")


def drug(rng: random.Random) -> str:
    """In lower case, as international non-proprietary names are written."""
    return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(ENDS)
