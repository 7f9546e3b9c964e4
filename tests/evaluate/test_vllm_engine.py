"""Answers by vLLM: what it is called with, and what is made of what it says, on a stand-in for the package. No card here."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.errors import RecipeError, TrainingError
from finetune.evaluate.vllm_engine import answer_both, aside, check_placement, engine_problems
from finetune.model.load import Source
from finetune.recipe_harness import VllmSection
from tests.conftest import byte_tokenizer

# A package `vllm` that writes down what it is called with, and answers "ab", then its prompt's first token with the adapter
# and without; the second prompt's answer ends at id 257, of which this one tells in stop_reason only.
STAND_IN = """
import json, os
from pathlib import Path
from types import SimpleNamespace as N

SEEN = {"environment": sorted(os.environ)}

class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids, ignore_eos, detokenize):
        SEEN["sampling"] = [temperature, max_tokens, stop_token_ids, ignore_eos, detokenize]

class LLM:
    def __init__(self, model, *, revision, trust_remote_code, dtype, max_model_len, gpu_memory_utilization, seed, enable_lora,
                 max_loras, max_lora_rank):
        SEEN["llm"] = [model, revision, trust_remote_code, dtype, max_model_len, gpu_memory_utilization, seed, enable_lora,
                       max_loras, max_lora_rank]
        if gpu_memory_utilization > 0.95:
            raise ValueError("Free memory on device is less than desired GPU memory utilization")
        self.llm_engine = N(add_lora=lambda lora: SEEN.setdefault("added", [lora.lora_name, lora.lora_int_id, lora.lora_path]))

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        SEEN.setdefault("asked", []).append([prompts, use_tqdm, lora_request and lora_request.lora_name])
        Path(os.environ["SEEN"]).write_text(json.dumps(SEEN))
        first = [97, 98, 99 if lora_request else 100]
        return [N(outputs=[N(token_ids=first, finish_reason="length", stop_reason=None)]),
                N(outputs=[N(token_ids=[97], finish_reason="stop", stop_reason=257)]),
                N(outputs=[N(token_ids=[97, 257], finish_reason="stop", stop_reason=257)])]
"""
LORA = """
class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path):
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path
"""
PROMPTS = [[1, 2, 3], [4, 5], [6]]


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """The stand-in on the path of Python's children; the file in which it writes down what it saw."""
    package = tmp_path / "site" / "vllm"
    (package / "lora").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    (package / "lora" / "__init__.py").touch()
    (package / "lora" / "request.py").write_text(LORA, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    return tmp_path / "seen.json"


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    """An adapter of rank 12 on one layer, as peft saves it."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter")
    config = {"peft_type": "LORA", "r": 12, "lora_alpha": 12, "target_modules": ["q_proj"], "bias": "none",
              "base_model_name_or_path": "org/base"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    at = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file({f"{at}.lora_A.weight": torch.ones(12, 8), f"{at}.lora_B.weight": torch.ones(8, 12)},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


def ask(base: Path, adapter: Path, tmp_path: Path, **settings):
    section = VllmSection(**settings)
    return answer_both(
        Source(str(base)), adapter, byte_tokenizer(), PROMPTS, 3, (257, 256), "bfloat16", section, tmp_path / "vllm.log"
    )


def test_what_vllm_is_called_with(stand_in, tiny_base, adapter, tmp_path):
    """One LLM for both; rank 12 needs the step 16; room for the longest prompt (3) and answer (3); only our stops end an
    answer; prompts as ids, without an adapter and then with it; nothing of the launcher's in its environment."""
    ask(tiny_base, adapter, tmp_path)
    seen = json.loads(stand_in.read_text())
    assert seen["llm"] == [str(tiny_base), None, False, "bfloat16", 6, 0.8, 0, True, 1, 16]
    assert seen["sampling"] == [0.0, 3, [256, 257], True, False]
    assert seen["added"] == ["tuned", 1, str(adapter)]
    ids = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    assert seen["asked"] == [[ids, False, None], [ids, False, "tuned"]]
    assert "WORLD_SIZE" in os.environ and not {"WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & {*seen["environment"]}
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" in seen["environment"]


def test_answers_are_as_those_of_the_other_engine(stand_in, tiny_base, adapter, tmp_path):
    """Ids with the stop token, whether vLLM lists it or only names it; cut off ones are not finished; text is decoded here."""
    base, tuned = ask(tiny_base, adapter, tmp_path)
    text = byte_tokenizer().decode
    assert [item.ids for item in base] == [(97, 98, 100), (97, 257), (97, 257)]
    assert [item.ids for item in tuned] == [(97, 98, 99), (97, 257), (97, 257)]
    assert [item.finished for item in tuned] == [False, True, True]
    assert [item.text for item in tuned] == [text([97, 98, 99]), text([97]), text([97])]


def test_why_vllm_ended_is_said(stand_in, tiny_base, adapter, tmp_path):
    """Its last line, where the rest is, and that nothing is lost."""
    with pytest.raises(
        TrainingError, match=r"Free memory on device .*vllm\.log\); the adapter is saved: --resume auto"
    ):
        ask(tiny_base, adapter, tmp_path, gpu_memory_utilization=0.99)


def test_recipes_that_vllm_cant_answer_for(tiny_recipe, monkeypatch, tmp_path):
    """Each reason at once, before anything is loaded: device, package, quantisation, and the kinds of adapter by the rules
    that exports have; what only matters to a server is no reason."""

    def problems(*overrides: str) -> list[str]:
        return engine_problems(tiny_recipe("evaluate.engine=vllm", *overrides))

    there: list[str] = []
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name in there or None if name == "vllm" else real(name)
    )
    assert [line.split("; ")[0] for line in problems()] == [
        "evaluate.engine: vllm: device 'cpu': it needs one of cuda, npu",
        "evaluate.engine: vllm: vLLM is not installed here",
    ]
    there.append("vllm")
    assert problems("device=auto") == []
    assert "(A9)" in problems("device=auto", "lora.use_dora=true")[0]
    assert "(A8)" in problems("device=auto", "lora.r=600")[0]
    assert "(A7)" in problems("device=auto", "lora.init_lora_weights=pissa")[0]
    assert "(A18)" in problems("device=auto", "lora=null", "peft_type=ia3")[0]
    assert "(A11)" in problems("device=auto", "model.add_tokens=[ozone]")[0]
    assert "would not be quantised" in problems("device=auto", "model.quantization=nf4")[0]
    missing = problems("device=auto", f"evaluate.vllm.python={tmp_path}/bin/python")
    assert len(missing) == 1 and missing[0].startswith(f"evaluate.vllm.python: {tmp_path}/bin/python does not run")
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\nexit 1\n")
    empty.chmod(0o755)
    assert "has no vLLM" in problems("device=auto", f"evaluate.vllm.python={empty}")[0]


def test_an_adapter_folder_that_vllm_refuses(stand_in, tiny_base, adapter, tmp_path):
    """The rules are asked of the folder as it lies, too."""
    (tmp_path / "dora").mkdir()
    for file in adapter.iterdir():
        (tmp_path / "dora" / file.name).write_bytes(file.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"use_dora": True}
    (tmp_path / "dora" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="DoRA"):
        ask(tiny_base, tmp_path / "dora", tmp_path)
    assert not stand_in.exists()


def test_where_it_runs():
    """On a card, and started by one process."""

    def placed(name: str, count: int, dtype: str = "bfloat16") -> SimpleNamespace:
        accelerator = SimpleNamespace(num_processes=count)
        return SimpleNamespace(device=SimpleNamespace(name=name), accelerator=accelerator, dtype=dtype)

    check_placement(placed("cuda", 1))
    check_placement(placed("npu", 1))
    with pytest.raises(RecipeError, match="runs on cpu"):
        check_placement(placed("cpu", 1))
    with pytest.raises(RecipeError, match="2 processes train"):
        check_placement(placed("cuda", 2))
    check_placement(placed("cuda", 1, "float32"))
    with pytest.raises(RecipeError, match="computes attention in 16 bits"):
        check_placement(placed("npu", 1, "float32"))


def test_the_model_is_aside_meanwhile():
    """To the host before vLLM starts, back to the card afterwards, also when that failed."""
    moves: list[str] = []
    placement = SimpleNamespace(accelerator=SimpleNamespace(device="card"))
    model = SimpleNamespace(to=moves.append)
    with pytest.raises(KeyError), aside(model, placement):
        moves.append("vllm")
        raise KeyError
    assert moves == ["cpu", "vllm", "card"]
