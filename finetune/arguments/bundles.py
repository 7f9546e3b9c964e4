"""Options of the commands about adapters and bundles."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.arguments.options import json_argument, overrides, positive
from finetune.model.quantization import METHODS


def export_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapter", type=Path, metavar="RUN|ADAPTER", help="a run's folder, or a PEFT adapter's")
    command.add_argument("--base", help="hub id or folder (default: the one that the run or the adapter names)")
    command.add_argument("--output", type=Path, help="the bundle's folder (default: <run>/bundle)")
    command.add_argument("--prompts", type=Path, help="JSON Lines of messages to prove the merge of a bare adapter on")
    command.add_argument(
        "--trained-on", choices=[*METHODS], help="how the adapter's base was quantised as it was loaded (QLoRA: nf4)"
    )
    command.add_argument(
        "--merge-into",
        choices=["dequantised", "original"],
        help="of an adapter on a quantised base (default: dequantised)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier bundle")
    command.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the bundle to the Hugging Face hub")
    command.add_argument("--push-to-modelscope", metavar="ORG/NAME", help="upload the bundle to ModelScope")
    command.add_argument("--revision", help="branch of the hub to upload to (default: its main one)")
    command.add_argument("--public", action="store_true", help="uploads that all may read (default: private)")
    json_argument(command)
    overrides(command)


def merge_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapters", nargs="+", metavar="FOLDER[=WEIGHT]", help="PEFT adapters of one base")
    command.add_argument(
        "--method", default="linear", help="linear, ties, dare_linear, dare_ties, ... (default linear)"
    )
    command.add_argument("--density", type=float, help="share of values kept, for ties and dare (0 to 1)")
    command.add_argument("--seed", type=int, default=0, help="of dare's choice of values (default 0)")
    command.add_argument("--output", type=Path, required=True, help="the new adapter's folder")
    json_argument(command)


def verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "server", metavar="URL|DIR", help="an OpenAI-compatible server (http://host:8000/v1), or a bundle"
    )
    command.add_argument("--bundle", type=Path, help="the bundle whose golden samples are asked (needed with a URL)")
    command.add_argument("--model", help="the model's name at the server (default: the only one it lists)")
    json_argument(command)
    command.add_argument("--api-key-file", type=Path, help="a file that holds the server's key")
    command.add_argument("--samples", type=positive, help="ask this many golden samples (default: all)")
    command.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte (default 120)")
    command.add_argument("--tolerance", type=float, help="how far a mean score may fall (default 0.02, or one sample)")
    command.add_argument(
        "--divergence", type=float, default=0.02, help="answers that part from the golden ones, a token (default 0.02)"
    )
    command.add_argument("--exact", type=float, help="least share of answers equal to the letter (default: any)")
    command.add_argument("--first-token", type=float, metavar="SECONDS", help="latest first token (95th percentile)")
    command.add_argument("--tokens-per-second", type=float, metavar="N", help="slowest answer (median)")
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run the folder's own *.py, where its model needs them"
    )
    command.add_argument("--concurrency", type=positive, default=1, help="ask again, this many at a time (default 1)")
