"""The recipes of a new pack as YAML: one task on a CPU, the pack on one GPU and on one Ascend node."""

from __future__ import annotations

from typing import Any

from finetune.data.scaffold import quoted
from finetune.newpack.facts import BATCH, Facts

SCHEMA = "# yaml-language-server: $schema=../recipe.schema.json"  # for editors
EDIT = "EDIT ME"  # begins what only a person can say; the pack's page asks for all of it


def cpu_recipe(industry: str, task: str, sample: str, facts: Facts) -> str:
    """The task alone, on SmolLM2."""
    return f"""\
{SCHEMA}
# Gives {quoted(facts.answer)} from the other columns. Written by `finetune new pack` from {facts.rows} rows: it runs, and
# nobody has measured yet what it learns. Held out: {_held_out(facts)}.
extends: ../smollm2_cpu.yaml
name: {task}
output_dir: runs/{task}
seed: 17
data:
{data_lines(industry, task, sample, facts)}
train:
  max_steps: {facts.max_steps}
evaluate: {{batch_size: 64, max_new_tokens: {facts.max_new_tokens}}}
gate:
  better_than_base: true
  min: {{}}  # the least scores that you would use it with, once you have measured some
{_card(facts)}"""


def gpu_recipe(industry: str, task: str, sample: str, facts: Facts) -> str:
    """The pack on one GPU; with one task it is no mixture yet."""
    return f"""\
{SCHEMA}
# The pack on one GPU. It has one task; `finetune new pack` prints what to write here as the next one comes.
extends: ../qwen2_5_7b_gpu.yaml
name: {industry}_gpu
output_dir: runs/{industry}_gpu
seed: 17
data:
{data_lines(industry, task, sample, facts)}
train:
  global_batch_size: {BATCH}
  num_train_epochs: 3
evaluate: {{max_new_tokens: {facts.max_new_tokens}}}
gate:
  better_than_base: true
{_card(facts)}"""


def npu_recipe(industry: str) -> str:
    """What differs on one node of eight Ascend 910B."""
    return f"""\
{SCHEMA}
# The same on one node of eight Ascend 910B.
extends: pack_gpu.yaml
name: {industry}_npu
output_dir: runs/{industry}_npu
device: npu
train: {{optim: adamw_torch_npu_fused}}
export: {{targets: [vllm-ascend]}}
"""


def data_lines(industry: str, task: str, sample: str, facts: Facts, indent: str = "  ") -> str:
    """What the section `data` of a recipe in recipes/<industry>/ says."""
    folder = f"../../data_templates/{industry}"
    by = f"by: {quoted(facts.group)}, " if facts.group is not None else ""
    lines = (
        f"template: {folder}/{task}.yaml",
        f"train: {folder}/{sample}",
        f"split: {{{by}eval_rows: {facts.eval_rows}}}",
        f"max_length: {facts.max_length}  # a bound: the bytes of the longest row; `finetune audit` counts tokens",
    )
    return "\n".join(indent + line for line in lines)


def mixture_part(name: str, data: str, weight: int = 1) -> str:
    """A part of `mixture:`; `data` is indented by six."""
    return f"  - name: {name}\n    stage: sft\n    weight: {weight}\n    data:\n{data}\n"


def grown_pack(told: dict[str, Any] | None, industry: str, task: str, sample: str, facts: Facts) -> str:
    """What to write into a pack_gpu.yaml that is there already, so that it trains this task, too.

    Args:
        told: the file's keys; None where it can't be read.
    """
    room = f"evaluate.max_new_tokens: {facts.max_new_tokens} or more"
    part = mixture_part(task, data_lines(industry, task, sample, facts, " " * 6))
    if told is None or not ("data" in told or "mixture" in told):
        return f"under `mixture:`, {room}:\n{part}"
    if isinstance(parts := told.get("mixture"), list):
        return f"at the end of `mixture:`, train.global_batch_size: {BATCH * (len(parts) + 1)}, {room}:\n{part}"
    data = told["data"] if isinstance(told["data"], dict) else {}
    name = str(data.get("template", told.get("name", "first"))).rpartition("/")[2].removesuffix(".yaml")
    first = mixture_part(name, "\n".join(f"      {key}: {quoted(value)}" for key, value in data.items()))
    return f"in place of `data:`, train.global_batch_size: {2 * BATCH}, {room}:\nmixture:\n{first}{part}"


def _held_out(facts: Facts) -> str:
    if facts.group is None:
        return "rows by chance, copies together"
    return f"whole groups of rows with the same {quoted(facts.group)}"


def _card(facts: Facts) -> str:
    languages = f"  language: [{', '.join(facts.languages)}]\n" if facts.languages else ""
    return f"""\
card:
  intended_use: "{EDIT}: who uses the answers, for what, and who checks them before anything is done."
  limits: "{EDIT}: learnt from {facts.rows} sample rows; not fit for use. Say where it must not be relied on."
{languages}"""
