"""Made-up names of drugs, so that no sample says a wrong thing of a real one. A likeness is chance."""

from __future__ import annotations

import random

STARTS = ("vel", "tor", "mar", "quin", "sob", "lax", "pir", "zen", "dor", "fel", "ruv", "cam")
MIDDLES = ("", "a", "i", "o", "eta", "ibu", "ora", "ulo")
ENDS = ("axine", "otrel", "imod", "azole", "entan", "idone", "uride", "amine", "osin", "ecid", "ilast", "opride")

ZH_ENDS = ("坦", "平", "司他", "洛芬", "替尼", "酮", "沙星", "地平")


def drug(rng: random.Random) -> str:
    """In lower case, as international non-proprietary names are written."""
    return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(ENDS)


def zh_drug(rng: random.Random) -> str:
    """As transliterations are."""
    return "".join(rng.choices("维洛米塔诺赛瑞贝佐", k=2)) + rng.choice(ZH_ENDS)
