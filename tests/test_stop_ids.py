"""The turn's end that was trained is a stop id of everything that is served, whatever the tokenizer calls its eos."""

from __future__ import annotations

import json

from tests.conftest import byte_tokenizer, tiny_llama


def test_a_template_whose_turn_end_is_not_the_eos(tiny_recipe, tmp_path):
    """Llama 3 is like this: eos `<|end_of_text|>`, turns end in `<|eot_id|>`. Here eos is 256 and turns end in 257."""
    from finetune.run import run

    folder = tmp_path / "base"
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|im_start|>"
    model = tiny_llama(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = 256
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    result = run(tiny_recipe(f"model.name_or_path={folder}", "train.max_steps=1"))
    for file in ("generation_config.json", "config.json"):
        assert json.loads((result.bundle / file).read_text())["eos_token_id"] == [257, 256], file


def test_training_on_everything_makes_no_plain_text_a_stop(tiny_recipe):
    """ChatML ends a turn with the stop token and a line break; under `train_on: all` the line break is trained last."""
    from finetune.run import run

    result = run(tiny_recipe("data.train_on=all", "train.max_steps=1"))
    assert json.loads((result.bundle / "generation_config.json").read_text())["eos_token_id"] == 257
