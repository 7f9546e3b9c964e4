"""The peers, a row each, and which one a file is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from finetune.errors import RecipeError
from finetune.migrate import axolotl, llamafactory, trl
from finetune.migrate.axolotl_keys import AXOLOTL
from finetune.migrate.draft import Draft, Given
from finetune.migrate.keys import Key
from finetune.migrate.llamafactory_keys import LLAMAFACTORY
from finetune.migrate.trl_keys import TRL


class Peer(NamedTuple):
    """A toolkit whose configurations are read."""

    name: str
    table: Mapping[str, Key]
    translate: Callable[[Draft], None]


PEERS = {
    "llamafactory": Peer(llamafactory.NAME, LLAMAFACTORY, llamafactory.translate),
    "axolotl": Peer(axolotl.NAME, AXOLOTL, axolotl.translate),
    "trl": Peer(trl.NAME, TRL, trl.translate),
}


def guess(given: Given) -> str:
    """The peer that the file's keys are of: the one that knows the most of them, where no other knows as many.

    Raises:
        RecipeError: none knows any, or several know as many.
    """
    if given.stage is not None:
        return "trl"
    known = {name: sum(key in peer.table for key in given.values) for name, peer in PEERS.items()}
    most = max(known.values())
    first = [name for name, count in known.items() if count == most]
    if most == 0:
        raise RecipeError(
            f"{given.file}: none of its keys is one of LLaMA-Factory, Axolotl or TRL; which is it for? "
            "--from llamafactory|axolotl|trl"
        )
    if len(first) > 1:
        raise RecipeError(
            f"{given.file}: its keys are as well of {' as of '.join(PEERS[name].name for name in first)} ({most} of "
            f"{len(given.values)} each); say which with --from {'|'.join(first)}"
        )
    return first[0]
