"""What a launcher starts in these tests: the run of a recipe in which one process sends a signal at a chosen moment.

    signalled.py RANK CALL TARGET SIGNAL train RECIPE ...

At the loss's call number CALL, the process of that RANK sends SIGNAL to TARGET: `self`, or `parent` (its launcher).
"""

from __future__ import annotations

import os
import signal
import sys

from finetune.cli import main
from finetune.stages.sft import Sft

rank, call, target, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
plain, seen = Sft.loss, []


def signalling(self, model, batch):
    seen.append(1)
    if len(seen) == call and int(os.environ.get("RANK", "0")) == rank:
        os.kill(os.getpid() if target == "self" else os.getppid(), getattr(signal, name))
    return plain(self, model, batch)


if __name__ == "__main__":
    Sft.loss = signalling  # type: ignore[method-assign]
    sys.exit(main(sys.argv[5:]))
