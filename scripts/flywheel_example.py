"""The wheel turned three times on a small real model: served answers, people who rate and correct some of them, new releases.

    python scripts/flywheel_example.py                 # into runs/flywheel; prints a table of the turns
    python scripts/flywheel_example.py --turns 2 --asked 60
    python scripts/flywheel_example.py --turns 4       # run again, it goes on where it ended: one turn more

The first release is trained on a few rows of the news_sentiment pack. In each turn the release answers questions that it was
not trained on; of the answers that people look at, right ones get a thumb up and wrong ones the right answer. The people are
made up: they know the pack's own labels. All else is what a user runs: `finetune train` and `finetune iterate`. Every turn is
scored on the same held-out companies.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

RECIPE = ROOT / "recipes/finance/news_sentiment.yaml"
LOOKED_AT = 0.5  # of the answers that people see, so many are judged
BATCH = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--first", type=int, default=64, help="rows that the first release is trained on (default 64)")
    parser.add_argument("--asked", type=int, default=120, help="questions a turn (default 120)")
    parser.add_argument(
        "--epochs", type=int, default=4, help="of each training, so that more rows are more steps (default 4)"
    )
    parser.add_argument("--rows", type=int, default=150, help="held-out rows to score (default 150)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/flywheel")
    options = parser.parse_args()
    from finetune import cli, device
    from finetune.inputs import load_data
    from finetune.iterate import read_wheel
    from finetune.recipefile import load_recipe

    device.quiet_libraries()
    whole = load_data(load_recipe(RECIPE))
    samples = list(whole.train)
    if (needed := options.first + options.turns * options.asked) > len(samples):
        parser.error(f"--first and --asked take {needed} rows in {options.turns} turns; there are {len(samples)}")
    random.Random(0).shuffle(samples)
    options.folder.mkdir(parents=True, exist_ok=True)
    recipe = options.folder / "recipe.yaml"
    if not recipe.is_file():
        write_recipe(
            recipe, options, samples[: options.first], list(whole.evaluate)[: options.rows]
        )  # as docs/flywheel.md had them
    if not (options.folder / "run/bundle").is_dir() and (code := cli.main(["train", str(recipe)])) != 0:
        return code
    for turn in range(len(read_wheel(options.folder / "wheel").turns) + 1, options.turns + 1):
        logs = []
        if not read_wheel(options.folder / "wheel").unfinished:  # else the turn is ended from where it was killed
            logs = [options.folder / f"log.{turn}.jsonl"]
            start = options.first + (turn - 1) * options.asked
            lines = served(options.folder, samples[start : start + options.asked], turn)
            logs[0].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        into = ["--into", str(options.folder / "wheel"), "--max-drop", "0.05"]
        code = cli.main(["iterate", str(recipe), *map(str, logs), *into])
        if code not in (0, 3):  # 3: no release, and the wheel goes on with the one before
            return code
    print(*table(options.folder), sep="\n")
    return 0


def table(folder: Path) -> Iterator[str]:
    """The turns as Markdown: what came in, and the main score with its 95 % interval, of each model and of the difference."""
    from finetune.evaluate.intervals import with_ends
    from finetune.iterate import read_wheel

    wheel = read_wheel(folder / "wheel")
    yield "| turn | rows that came in | score | base | release before | new | new - release before | |"
    yield "|---|---|---|---|---|---|---|---|"
    for turn in wheel.turns:
        told = json.loads((folder / "wheel" / turn["run"] / "scores.json").read_text(encoding="utf-8"))
        name, ends = turn["main"], told["intervals"] or {}
        cells = [with_ends(told["scores"].get(who, {}).get(name), ends.get(who, {}).get(name)) for who in
                 ("base", "previous", "tuned")]  # fmt: skip
        both = [told["scores"].get(who, {}).get(name) for who in ("tuned", "previous")]
        change = None if None in both else both[0] - both[1]
        cells.append(with_ends(change, ends.get("difference_previous", {}).get(name)))
        rows = ", ".join(f"{count} {kind}" for kind, count in turn["rows"].items())
        decided = "released" if turn["passed"] else "not released"
        yield f"| {turn['version']} | {rows} | {name} | {' | '.join(cells)} | {decided} |"


def write_recipe(file: Path, options: argparse.Namespace, first: Sequence[Any], held_out: Sequence[Any]) -> None:
    """The pack's recipe on the first rows, and its own held-out ones, in files of their own."""
    for name, rows in (("first", first), ("held_out", held_out)):
        lines = [json.dumps(sample.record, ensure_ascii=False, default=str) for sample in rows]
        (options.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    file.write_text(
        f"extends: {RECIPE}\nname: flywheel\noutput_dir: {options.folder / 'run'}\n"
        "data: {train: first.jsonl, eval: held_out.jsonl, split: null}\n"
        f"train: {{max_steps: null, num_train_epochs: {options.epochs}, save_steps: 0}}\n",
        encoding="utf-8",
    )


def served(folder: Path, samples: Sequence[Any], turn: int) -> Iterator[str]:
    """Lines of an OpenAI-format log: what the release answered, and what people said of some of it."""
    from finetune.iterate import read_wheel

    wheel = read_wheel(folder / "wheel")
    bundle = folder / "wheel" / wheel.release["bundle"] if wheel.release else folder / "run/bundle"
    people = random.Random(turn)
    for number, (sample, answer) in enumerate(zip(samples, answers_of(bundle, samples), strict=True)):
        message = {"role": "assistant", "content": answer}
        line: dict[str, Any] = {
            "id": f"turn{turn}-{number}",
            "request": {"model": bundle.parent.name, "messages": list(sample.prompt)},
            "response": {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]},
        }
        if people.random() < LOOKED_AT:
            right = answer.strip() == sample.answer.strip()
            line["feedback"] = {"rating": "up"} if right else {"rating": "down", "correction": sample.answer}
        yield json.dumps(line, ensure_ascii=False)


def answers_of(bundle: Path, samples: Sequence[Any]) -> list[str]:
    """As a server of the bundle gives them: its own chat template, greedy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(bundle).eval()
    found: list[str] = []
    for start in range(0, len(samples), BATCH):
        chats = [list(sample.prompt) for sample in samples[start : start + BATCH]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        found += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in found]


if __name__ == "__main__":
    sys.exit(main())
