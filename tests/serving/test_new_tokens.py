"""New tokens in a GGUF file and in llama.cpp, where they have the same ids; and on a base that comes out of a GGUF file."""

from __future__ import annotations

import json

import pytest
from gguf import GGUFReader

from finetune.export.quantised import run_gguf
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import tiny_llama, write_tiny_recipe

pytestmark = pytest.mark.slow

WORDS = (" CAVOK", "<RWY>", "larger", "雷暴")  # ids 49152 to 49155, right behind the base's


@pytest.fixture(scope="module")
def bundle(tiny_data, converters, tokenizer, tmp_path_factory):
    """A tiny random Llama with SmolLM2's tokenizer, four steps with new tokens, exported for llama.cpp in float32; what is
    written is held to the merged model there (the limits and the comparison of ids are export/quantised.py's)."""
    folder = tmp_path_factory.mktemp("tokens")
    tiny_llama(len(tokenizer)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    targets = json.dumps([{"engine": "llama.cpp", "types": ["f32"], "converter": str(converters)}])
    changes = [
        f"model.add_tokens={json.dumps(WORDS, ensure_ascii=False)}",
        f"export.targets={targets}",
        "train.max_steps=4",
    ]
    result = run(load_recipe(write_tiny_recipe(folder, folder / "base", tiny_data), changes))
    assert result is not None
    return result


def test_the_file_has_them_and_is_the_merged_model(bundle):
    (served,) = bundle.manifest["serving"]
    (told,) = served["converted"].values()
    assert told["file"]["vocabulary"] == 49156
    assert told["proof"]["answers_equal"] == told["proof"]["greedy_agreement"] == 1.0
    assert told["proof"]["max_logprob_difference"] < 1e-3
    (file,) = bundle.bundle.glob("**/*.gguf")
    reader = GGUFReader(str(file))
    kinds = reader.get_field("tokenizer.ggml.token_type").contents()
    assert kinds[49152:] == [4] * 4  # LLAMA_TOKEN_TYPE_USER_DEFINED, which llama.cpp finds in any text


def test_ids_in_llama_cpp_are_the_tokenizer_s(bundle):
    """Within words, side by side, behind a space that is part of the token and behind one that is not."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle.bundle)
    texts = [
        "ZGSZ 230500Z CAVOK<RWY>15 inhg 29.92inhg 雷暴CAVOK",
        "<|im_start|>user\n<RWY>larger<|im_end|>",
        "enlarger",
    ]
    ours = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [[id for id in ids if id >= 49152] for ids in ours] == [[49152, 49153, 49155], [49153, 49154], [49154]]
    messages = [[{"role": "user", "content": texts[0]}]]
    (file,) = bundle.bundle.glob("**/*.gguf")
    said = run_gguf(file, None, [], texts, messages)
    assert said["ids"] == ours
    assert said["rendered"] == [tokenizer.apply_chat_template(messages[0], tokenize=False, add_generation_prompt=True)]
