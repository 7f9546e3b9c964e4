"""Rendered samples on the terminal: what the model reads, and which tokens it is trained on."""

from __future__ import annotations

import sys

from finetune.data.chat import IGNORED
from finetune.device import colours, quiet_libraries
from finetune.inputs import load_data, make_stage
from finetune.recipe import Recipe


def show_samples(recipe: Recipe, rows: int) -> None:
    """Prints the first `rows` training samples; trained tokens green on a terminal, between ⟦ and ⟧ elsewhere."""
    quiet_libraries()
    from finetune.model.load import load_tokenizer

    data = load_data(recipe)
    tokenizer = load_tokenizer(recipe.model)
    stage, _ = make_stage(recipe, tokenizer)
    on, off = ("\x1b[32m", "\x1b[0m") if colours(sys.stdout) else ("⟦", "⟧")
    for example in (part for item in stage.encode(data.train[:rows]) for part in item.examples):
        print(f"--- {example.where}: {len(example.ids)} tokens, {example.trained} trained")
        text, inside = "", False
        run: list[int] = []
        for token, label in zip((*example.ids, None), (*example.labels, None), strict=True):
            trained = label is not None and label != IGNORED
            if token is None or trained != inside:
                piece = tokenizer.decode(run)
                text += f"{on}{piece}{off}" if inside else piece
                inside, run = trained, []
            if token is not None:
                run.append(token)
        print(text)
