"""A tiny base that answers one way and a tuned model that answers another, with the tuned one's golden samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from finetune.data.chat import IGNORED, ChatEncoder
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.verify.golden import FACTS, SAMPLES, Golden, make_facts, make_golden, write_facts, write_golden
from tests.conftest import byte_tokenizer, tiny_llama

LIMIT = 24  # new tokens, in the evaluation
STOP = 257


@dataclass(frozen=True)
class Said:
    """finetune.evaluate.generate.Answer with the ids of its tokens."""

    text: str
    finished: bool
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """Folders of the two models, and the golden samples of `tuned` (which lie in it, as in a bundle)."""

    base: Path
    tuned: Path
    goldens: list[Golden]


def rows(answer) -> list[Sample]:
    """Pairs of digits with what is to be answered to them."""
    found = []
    for a in range(6):
        for b in range(a % 2, 6, 2):
            messages = ({"role": "user", "content": f"{a} {b}?"}, {"role": "assistant", "content": answer(a, b)})
            found.append(Sample({}, messages, f"rows.jsonl:{len(found) + 1}"))
    return found


def base_answer(a: int, b: int) -> str:
    return f"first {a}\nlast {b}"


def tuned_answer(a: int, b: int) -> str:
    return f"max {max(a, b)}\nsame {'yes' if a == b else 'no'}"


def teach(model, encoder: ChatEncoder, samples: list[Sample], steps: int) -> None:
    """Full training on all samples, one batch a step."""
    examples = [encoder.encode(sample)[0] for sample in samples]
    width = max(len(example.ids) for example in examples)
    ids = torch.tensor([list(e.ids) + [STOP] * (width - len(e.ids)) for e in examples])  # (B, T)
    labels = torch.tensor([list(e.labels) + [IGNORED] * (width - len(e.ids)) for e in examples])  # (B, T)
    mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in examples])  # (B, T)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def greedy(model, tokenizer, ids: list[int]) -> tuple[Said, list[float]]:
    """The answer by hand: argmax, token by token; with each token's log-probability."""
    out: list[int] = []
    logprobs: list[float] = []
    step = model(torch.tensor([ids]))
    while len(out) < LIMIT:
        if out:
            step = model(torch.tensor([[out[-1]]]), past_key_values=step.past_key_values)
        logits = step.logits[0, -1].log_softmax(-1)
        token = int(logits.argmax())
        if token == STOP:
            break
        out.append(token)
        logprobs.append(float(logits[token]))
    text = tokenizer.decode(out, skip_special_tokens=True).strip()
    return Said(text, len(out) < LIMIT, tuple(out)), logprobs


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    """Both models trained (seconds), and a bundle's folder of the tuned one with golden samples and a manifest."""
    folder = tmp_path_factory.mktemp("verify")
    tokenizer = byte_tokenizer()
    encoder = ChatEncoder(tokenizer)
    model = tiny_llama(len(tokenizer))
    teach(model, encoder, rows(base_answer), 80)
    model.eval().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    samples = rows(tuned_answer)[1:9]
    prompts = [encoder.encode_prompt(sample.prompt) for sample in samples]
    of_base = [greedy(model, tokenizer, ids)[0] for ids in prompts]
    teach(model.train(), encoder, rows(tuned_answer), 110)
    model.eval().save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    answers, logprobs = zip(*(greedy(model, tokenizer, ids) for ids in prompts), strict=True)
    goldens = make_golden(samples, prompts, answers, {"": Metric(name="fields", separator=" ")}, of_base, logprobs)
    write_golden(folder / "tuned" / SAMPLES, goldens)
    facts = make_facts("tiny", {"name_or_path": "tiny/base"}, encoder, [STOP], "float32", LIMIT)
    write_facts(folder / "tuned" / FACTS, facts)
    write_manifest(folder / "tuned")
    return Made(folder / "base", folder / "tuned", goldens)


def write_manifest(folder: Path) -> None:
    """As the bundle's: every file with its sha256."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "MANIFEST.json")
    hashes = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "MANIFEST.json").write_text(json.dumps({"name": "tiny", "files": hashes}))
