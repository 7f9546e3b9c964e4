"""SmolLM2 trained for three steps and exported, once for all engines; and llama.cpp's converter scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.recipefile import load_recipe
from tests.conftest import ROOT
from tests.serving.battery import SMOLLM2

STOP = 2  # <|im_end|>


@pytest.fixture(scope="session")
def converters() -> Path:
    """llama.cpp's scripts, where scripts/get_llama_cpp_converters.sh puts them. Missing ones are no reason to skip."""
    folder = ROOT / ".converters"
    if not (folder / "convert_hf_to_gguf.py").is_file():
        pytest.fail("run scripts/get_llama_cpp_converters.sh first (scripts/test.sh does)")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    from finetune.model.load import load_tokenizer

    return load_tokenizer(SMOLLM2)


@pytest.fixture(scope="session")
def run_of_three_steps(tmp_path_factory):
    """The METAR recipe cut to three steps, float32 throughout: (recipe, result)."""
    from finetune.run import run

    output = tmp_path_factory.mktemp("smollm2") / "run"
    recipe = load_recipe(
        ROOT / "recipes/meteorology/metar_decode.yaml",
        [
            f"output_dir={output}", "model.dtype=float32", "train.max_steps=3", "train.global_batch_size=2",
            "train.warmup_ratio=0.0", "train.torch_compile=false", "evaluate.rows=4", "evaluate.max_new_tokens=8",
            "gate.min={}", "gate.better_than_base=false", "export.parity_rows=2",
        ],
    )  # fmt: skip
    return recipe, run(recipe)


@pytest.fixture(scope="session")
def samples(run_of_three_steps):
    """Eight held-out reports."""
    from finetune.inputs import load_data

    recipe, _ = run_of_three_steps
    return load_data(recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"rows": 8})})).evaluate


@pytest.fixture(scope="session")
def prompts(samples, tokenizer) -> list[list[int]]:
    """The eight as prompt ids."""
    from finetune.data.chat import ChatEncoder

    return [ChatEncoder(tokenizer).encode_prompt(sample.prompt) for sample in samples]
