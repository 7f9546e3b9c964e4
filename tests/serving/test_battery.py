"""Each of the 26 adapters through the export and into the engines that claim it: right, or refused; never wrong."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import RecipeError
from finetune.export.canon import canonical
from finetune.export.gguf import convert, convert_adapter
from finetune.export.layout import write_layout
from finetune.export.merge import merge
from finetune.export.quantised import _question, compare_served, run_gguf
from finetune.export.servable import check_folder
from finetune.recipe_export import TargetSection
from tests.serving.battery import ANSWER_TOKENS, QUESTIONS, VARIANTS, Variant, build, save_base

pytestmark = pytest.mark.slow

# What becomes of each: served as a canonical adapter by llama.cpp and mistral.rs; refused as an adapter but served
# merged; or refused by both, with the reason to be found in the message.
ADAPTER = (
    "plain", "rslora", "rankpat", "alphapat", "rankpat_full", "bias_all", "pissa_first", "olora_first", "r12", "r128",
    "layers01", "regex", "alllinear", "bf16",
)  # fmt: skip
MERGED = {
    "dora": "use_dora",
    "mts_lmhead": "modules_to_save",
    "mts_embed": "modules_to_save",
    "mts_norm": "modules_to_save",
    "tti": "trainable_token_indices",
    "tgt_embed": "embed_tokens",
    "tgt_lmhead": "lm_head",
    "newtok": "lm_head",
    "newtok_tti": "trainable_token_indices",
}
NEITHER = {"lora_bias": "lora_bias", "pissa": "init_lora_weights", "olora": "init_lora_weights"}
LLAMA_CPP_MERGED = ("dora", "tgt_embed", "newtok")  # CTranslate2 takes all of MERGED


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("battery") / "base")


@pytest.fixture(scope="module")
def variants(base) -> dict[str, Variant]:
    return {name: build(name, base, base.parent) for name in VARIANTS}


@pytest.fixture(scope="module")
def exported(base, variants) -> dict[str, Path]:
    """The canonical folder of each that can be one."""
    folder = base.parent / "canonical"
    return {name: canonical(variants[name].folder, folder / name, variants[name].initial).folder for name in ADAPTER}


@pytest.fixture(scope="module")
def merged(base, variants) -> dict[str, Path]:
    return {name: merge_variant(variants[name], base, base.parent / "merged" / name) for name in MERGED}


def merge_variant(variant: Variant, base: Path, output: Path) -> Path:
    """The merged folder, as the export writes it."""
    output.mkdir(parents=True)
    done = merge(base, variant.folder, output, None)
    write_layout(base, variant.folder, output, dtype=done.dtype, tied=done.tied, vocabulary=done.vocabulary)
    return output


def test_the_table_names_each_variant_once():
    assert sorted([*ADAPTER, *MERGED, *NEITHER]) == sorted(VARIANTS)
    assert len(VARIANTS) == 26


@pytest.mark.parametrize("name", [*MERGED, *NEITHER])
def test_what_no_engine_serves_as_an_adapter_is_refused(name, variants, base, converters, tmp_path):
    """llama.cpp would abort, or answer wrong without a word; no file is written."""
    reason = (MERGED | NEITHER)[name]
    with pytest.raises(RecipeError, match=reason):
        convert_adapter(variants[name].folder, base, tmp_path / "a.gguf", "f32", converters)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*MERGED, *NEITHER])
def test_canonical_says_so_too(name, variants, tmp_path):
    """What is left over is named; initialisations that change the base need their first matrices."""
    if name in ("pissa", "olora"):
        with pytest.raises(RecipeError, match="initial"):
            canonical(variants[name].folder, tmp_path / "out")
        return
    leftover = canonical(variants[name].folder, tmp_path / "out").leftover
    assert any((MERGED | NEITHER)[name] in line for line in leftover)


@pytest.mark.parametrize("name", [*ADAPTER, *MERGED, "lora_bias"])
@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_servability_says_before_what_the_engine_would_say(engine, name, variants, base, tmp_path):
    """Of the canonical folder: no complaint where the engine serves it, one where it doesn't."""
    folder = canonical(variants[name].folder, tmp_path / "out", variants[name].initial).folder
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    found = check_folder([TargetSection(engine=engine, form="adapter")], adapter=folder, base_config=config)
    refused = {finding.rule for finding in found if finding.severity != "warning"}
    served = name in ADAPTER or (engine == "vllm" and name in ("tgt_embed", "tgt_lmhead"))
    assert bool(refused) != served


@pytest.mark.parametrize("name", ["rslora", "alphapat", "rankpat_full"])
def test_as_peft_saved_it_llama_cpp_is_refused(name, variants, base, converters, tmp_path):
    """Measured: converted as they are, these answer wrong in llama.cpp (by 0.2 to 1.3 nats), without an error."""
    with pytest.raises(RecipeError, match=r"use_rslora|alpha_pattern"):
        convert_adapter(variants[name].folder, base, tmp_path / "a.gguf", "f32", converters)


@pytest.fixture(scope="module")
def gguf(base, exported, merged, converters) -> dict[str, Path]:
    """The GGUF files, two at a time: of the base, each canonical adapter (`name`) and some merged (`merged-name`)."""
    folder = base.parent / "gguf"
    jobs = [(convert, (base, folder / "base.gguf", "f32", converters))]
    jobs += [(convert_adapter, (a, base, folder / f"{n}.gguf", "f32", converters)) for n, a in exported.items()]
    jobs += [(convert, (merged[n], folder / f"merged-{n}.gguf", "f32", converters)) for n in LLAMA_CPP_MERGED]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(job, *arguments) for job, arguments in jobs]:
            done.result()
    return {file.stem: file for file in folder.iterdir()}


def served_by_llama_cpp(variant: Variant, file: Path, adapter: Path | None):
    said = run_gguf(file, adapter, [_question(example) for example in variant.examples], [])
    return compare_served(variant.model, variant.examples, said)


@pytest.mark.parametrize("name", ADAPTER)
def test_llama_cpp_serves_the_adapter(name, variants, gguf):
    served = served_by_llama_cpp(variants[name], gguf["base"], gguf[name])
    assert served.positions == 2 * ANSWER_TOKENS
    assert served.greedy_agreement == served.answers_equal == 1.0
    assert served.max_logprob_difference < 1e-3


def test_llama_cpp_without_the_adapter_is_told_apart(variants, gguf):
    served = served_by_llama_cpp(variants["plain"], gguf["base"], None)
    assert served.answers_equal == 0.0
    assert served.max_logprob_difference > 0.1


@pytest.mark.parametrize("name", LLAMA_CPP_MERGED)
def test_llama_cpp_serves_the_merged_model(name, variants, gguf):
    served = served_by_llama_cpp(variants[name], gguf[f"merged-{name}"], None)
    assert served.greedy_agreement == served.answers_equal == 1.0
    assert served.max_logprob_difference < 1e-3


@pytest.mark.parametrize("name", ADAPTER)
def test_mistral_rs_serves_the_adapter(name, variants, base, exported, monkeypatch):
    """Its own template, tokenizer and LoRA code; the logprob of each token it chose is the reference's best."""
    from mistralrs import Architecture, ChatCompletionRequest, LoraAdapter, ModelDType, Runner, Which

    monkeypatch.setenv("MISTRALRS_CPU_KV_F32", "1")  # else its cache is float16
    adapter = LoraAdapter("tuned", str(exported[name]))
    which = Which.Lora(
        model_id=str(base), adapters=[adapter], arch=Architecture.Llama, dtype=ModelDType.F32, max_rank=128
    )
    runner = Runner(which=which)
    for question, example in zip(QUESTIONS, variants[name].examples, strict=True):
        request = ChatCompletionRequest(
            model="default", messages=[{"role": "user", "content": question}], max_tokens=ANSWER_TOKENS,
            temperature=0.0, top_k=1, logprobs=True, top_logprobs=1, adapter="tuned",
        )  # fmt: skip
        choice = runner.send_chat_completion_request(request).choices[0]
        theirs = [token.logprob for token in choice.logprobs.content]
        assert len(theirs) == ANSWER_TOKENS
        with torch.inference_mode():
            logits = variants[name].model(input_ids=torch.tensor([example.ids])).logits[0]
        ours = logits.log_softmax(-1)[-ANSWER_TOKENS - 1 : -1].max(-1).values
        assert theirs == pytest.approx(ours.tolist(), abs=1e-3)


@pytest.mark.parametrize("name", MERGED)
def test_ctranslate2_serves_the_merged_model(name, variants, merged, tmp_path):
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(merged[name])).convert(str(tmp_path / "ct2"))
    engine = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", compute_type="float32", intra_threads=1)
    for example in variants[name].examples:
        theirs = torch.tensor(np.array(engine.forward_batch([list(example.ids)])))[0]  # (T, V)
        with torch.inference_mode():
            ours = variants[name].model(input_ids=torch.tensor([example.ids])).logits[0]
        assert theirs.shape == ours.shape
        assert float((theirs - ours).abs().max()) < 1e-3
