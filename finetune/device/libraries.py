"""The libraries before they are used: quiet, and with a device's package that works or with none."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from finetune.device import npu
from finetune.device.environment import before_torch, local_rank


def quiet_libraries() -> None:
    """One progress bar, ours: the libraries' own bars and notices to their developers would cut through it. Only the hub's
    stay, of downloads, in a terminal.

    Call before transformers is first imported (tqdm reads its switch then). torch_npu is loaded here, where it is
    installed: transformers and peft would import it themselves, and die where its CANN is missing.
    """
    before_torch()
    os.environ.setdefault("TQDM_DISABLE", "1")
    if local_rank() > 0 or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in (
        "bitsandbytes",
        "torchao",
        "torch.utils._pytree",
    ):  # kernels that they lack; every cast of an int8 product
        logging.getLogger(name).setLevel(logging.ERROR)
    # peft 0.21 still asks transformers 5.23 for an attribute under its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a notebook without ipywidgets
    if npu.installed() is not None:
        problem = npu.load()
        if problem and local_rank() == 0:
            print(f"warning: {problem}; going on without it (finetune doctor says more)", file=sys.stderr)
