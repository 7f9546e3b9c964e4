"""What `accelerate launch` starts: `accelerate launch scripts/train.py RECIPE [--set KEY=VALUE] [--overwrite]`."""

import sys

from finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
