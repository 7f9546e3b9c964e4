"""What `--help` says beside the options: examples of each command, exit codes."""

from __future__ import annotations

import argparse

EXIT_OK, EXIT_MISTAKE, EXIT_GATE, EXIT_DISK_FULL, EXIT_TRAINING = 0, 2, 3, 4, 5
EXIT_PREEMPTED, EXIT_INTERRUPTED, EXIT_PIPE = 75, 130, 141

EXIT_CODES = """\
exit codes:
  0    done
  2    a mistake in the command, recipe, template or data; nothing was written
  3    the answer is no: the gate, a proof, a comparison, a plan that does not fit
  4    the disk is full; nothing half-written is left
  5    training can't go on (a loss that is not finite, too little memory); the last checkpoint is valid
  75   stopped by a signal; the same command with --resume auto goes on
  130  interrupted
  141  whoever read the output stopped reading (finetune ... | head)

`finetune COMMAND --help` has examples of each."""

RECIPE = "recipes/meteorology/metar_decode.yaml"
# Of each command, and of the kinds of those that have some: what is typed, and what it does.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "new": (
        ("finetune new template rows.csv --output data_templates/shipping/port_delay.yaml", "a template to edit"),
        ("finetune new pack rows.csv --industry shipping --task port_delay", "template, sample, recipes, page"),
    ),
    "new template": (
        ("finetune new template rows.csv --output port_delay.yaml --answer delay", "the column delay is the answer"),
    ),
    "new pack": (
        ("finetune new pack rows.csv --industry shipping --task port_delay --group ship", "a ship's rows stay together"),
    ),
    "new recipe": (
        ("finetune new recipe", "the recipes that are shipped"),
        ("finetune new recipe meteorology/metar_decode --output mine.yaml", "a child of one, to edit"),
    ),
    "import": (
        ("finetune import train.yaml --output recipes/mine.yaml", "of LLaMA-Factory, Axolotl or TRL, told by its keys"),
    ),
    "doctor": (
        ("finetune doctor", "this machine, line by line"),
        (f"finetune doctor {RECIPE} --json", "and whether it can run this recipe; for a pipeline"),
    ),
    "raft": (
        ("finetune raft questions.jsonl passages.jsonl --distractors 4 --output rows.jsonl", "four other passages each"),
    ),
    "feedback": (
        ("finetune feedback import logs/2026-11.jsonl --output feedback/2026-11", "rows and pairs out of served answers"),
    ),
    "feedback import": (
        ("finetune feedback import logs/ --output feedback/1 --good 4,5 --bad 1,2", "ratings from 1 to 5"),
    ),
    "check": (
        (f"finetune check {RECIPE}", "recipe, template and every row"),
        (f"finetune check {RECIPE} --set data.max_length=256 --json", "with another length; as JSON"),
    ),
    "explain": (
        (f"finetune explain {RECIPE} train.learning_rate", "its value, and where that was said"),
        (f"finetune explain {RECIPE} lora", "every key of a section"),
        (f"finetune explain {RECIPE} --set train.max_steps=5", "the whole resolved recipe"),
    ),
    "schema": (
        ("finetune schema --output recipes/recipe.schema.json", "of recipes; their first line names it for editors"),
        ("finetune schema --template", "of data templates"),
    ),
    "show": ((f"finetune show {RECIPE} --rows 1", "a sample as the model reads it, trained tokens marked"),),
    "audit": ((f"finetune audit {RECIPE} --output runs/audit", "every row on one page"),),
    "plan": (
        (f"finetune plan {RECIPE} --hardware cpu", "memory, time and cost before anything is loaded"),
        (f"finetune plan {RECIPE} --hardware h100-80g --processes 8 --engine fsdp2 --json", "on eight GPUs"),
    ),
    "smoke": ((f"finetune smoke {RECIPE}", "the whole line on a tiny model; for continuous integration"),),
    "parity": ((f"finetune parity {RECIPE} --devices cpu,npu", "the first layer that differs, by name"),),
    "train": (
        (f"finetune train {RECIPE} --set output_dir=runs/mine", "from data to bundle"),
        (f"finetune train {RECIPE} --resume auto", "goes on where it was stopped"),
    ),
    "evaluate": ((f"finetune evaluate {RECIPE} --json", "the trained adapter asked again; what the gate decides"),),
    "gate": ((f"finetune gate {RECIPE} --set gate.min.field_match=0.95", "the same scores, another bound"),),
    "iterate": ((f"finetune iterate {RECIPE} logs/2026-11.jsonl --into wheel", "logs, data version, run, gate"),),
    "chat": (
        ("finetune chat runs/metar_decode", "base and tuned model side by side in the terminal"),
        ('finetune chat exported --ask "KMSP 220153Z 00000KT 10SM CLR 13/02 A2962" --json', "one question; for a program"),
        ("finetune chat exported --sample 1 --sample 2 --alone", "held-out prompts, of the tuned model only"),
    ),
    "report": (("finetune report runs/metar_decode", "report.html of a run that is there, in whatever state"),),
    "runs": (
        ("finetune runs", "the runs in runs/, one line each"),
        ("finetune runs compare runs/a runs/b --html compared.html", "what differs in recipe and results"),
    ),
    "export": (
        ("finetune export runs/metar_decode --output exported --set export.targets=[vllm]", "of a finished run"),
        ("finetune export adapter --base Qwen/Qwen3-0.6B --output exported", "of an adapter made elsewhere"),
    ),
    "merge": (("finetune merge a=0.7 b=0.3 --output both", "one adapter of two"),),
    "verify": (
        ("finetune verify exported", "the files, by transformers"),
        ("finetune verify http://localhost:8000/v1 --bundle exported --json verify.json", "what is serving them"),
    ),
    "reproduce": (("finetune reproduce runs/metar_decode/bundle", "the recipe again, and what came out otherwise"),),
    "carry": (
        (f"finetune carry {RECIPE}", "what a machine without a network needs, listed with hashes"),
        (f"finetune carry {RECIPE} --output carried", "the same copied, wheels too"),
    ),
    "completion": (
        ("finetune completion bash > ~/.local/share/bash-completion/completions/finetune", "for bash"),
        ('finetune completion zsh > "${fpath[1]}/_finetune"', "for zsh"),
    ),
}  # fmt: skip


class Help(argparse.HelpFormatter):
    """Text that comes in lines keeps them; a docstring in one paragraph is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(("examples:", "exit codes:")):
            return text
        return super()._fill_text(text, width, indent)


def examples(command: str) -> str:
    """The lines under the options; "" where there are none."""
    lines = [f"  {typed}\n      {what}" for typed, what in EXAMPLES.get(command, ())]
    return "\n".join(["examples:", *lines]) if lines else ""
