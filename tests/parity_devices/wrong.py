"""`python -m tests.parity_devices.wrong FOLDER...`: the runs of finetune.parity.run; in folders named "wrong" the npu's silu
kernel is off by one part in five hundred."""

from __future__ import annotations

import sys
from pathlib import Path

from finetune.device import quiet_libraries
from finetune.parity import run


def wrong_silu(_keys, value):
    import torch

    return value * torch.sigmoid(value) * 1.002


def main(folders: list[str]) -> int:
    quiet_libraries()
    import torch

    torch.set_num_threads(1)
    codes = [run.main([folder for folder in folders if Path(folder).name != "wrong"])]
    library = torch.library.Library("aten", "IMPL")
    library.impl("silu", wrong_silu, "PrivateUse1", with_keyset=True, allow_override=True)
    codes.append(run.main([folder for folder in folders if Path(folder).name == "wrong"]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
