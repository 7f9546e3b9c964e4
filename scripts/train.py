"""What `accelerate launch` starts: `accelerate launch scripts/train.py RECIPE [--set KEY=VALUE] [--overwrite]`."""

import sys

from finetune.cli import program

if __name__ == "__main__":
    program(["train", *sys.argv[1:]])
