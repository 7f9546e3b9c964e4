"""New tokens: ids worked out by hand, first rows the mean of the pieces', and merged into a vocabulary that grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.data.cache import tokenizer_digest
from finetune.data.chat import IGNORED, ChatEncoder
from finetune.data.documents import DocumentEncoder
from finetune.data.escape import control_tokens, domain_tokens
from finetune.data.rows import Sample
from finetune.errors import RecipeError
from finetune.export.layout import write_layout
from finetune.export.merge import merge
from finetune.export.parity import load_with_adapter
from finetune.export.weights import Grown, tensors_of
from finetune.model.adapter import add_adapter
from finetune.model.load import Source
from finetune.model.tokens import AddedTokens, add_to_tokenizer, check_same_tokens, grow, with_token_rows
from finetune.recipe import LoraSection
from tests.conftest import byte_tokenizer, tiny_llama
from tests.data.chats import SANITIZES
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import reload

WORDS = ("CAVOK", " QNH", "<RWY>", "雷暴")  # 258 to 261; 5, 4, 5 and 6 bytes
LORA = LoraSection(r=4)  # type: ignore[call-arg]


def bytes_of(tokenizer, text: str) -> list[int]:
    """Ids of the single bytes."""
    return byte_tokenizer().encode(text, add_special_tokens=False)


@pytest.fixture
def tokenizer():
    made = byte_tokenizer()
    add_to_tokenizer(made, WORDS)
    return made


def test_each_word_is_one_id_and_its_pieces_are_what_it_was():
    tokenizer = byte_tokenizer()
    added = add_to_tokenizer(tokenizer, WORDS)
    assert added.ids == {"CAVOK": 258, " QNH": 259, "<RWY>": 260, "雷暴": 261}
    assert added.pieces == {added.ids[word]: tuple(bytes_of(tokenizer, word)) for word in WORDS}
    text = "XCAVOKX QNH1013<RWY>雷暴 CAVOK"
    expected = [*bytes_of(tokenizer, "X"), 258, *bytes_of(tokenizer, "X"), 259, *bytes_of(tokenizer, "1013"), 260, 261,
                *bytes_of(tokenizer, " "), 258]  # fmt: skip
    assert tokenizer.encode(text, add_special_tokens=False) == expected
    assert tokenizer.decode(expected) == text
    assert added.line() == "4 token rows trained, ids 258 to 261: 4 new, 5.0 pieces each before"
    assert added.record()[" QNH"] == {"id": 259, "pieces": 4}


def test_a_word_that_is_a_token_already_is_only_trained():
    """A byte is one; a word of a vocabulary that was grown before (the next stage of a chain) is one, too."""
    tokenizer = byte_tokenizer()
    added = add_to_tokenizer(tokenizer, ("a", "CAVOK"))
    assert added.ids == {"a": bytes_of(tokenizer, "a")[0], "CAVOK": 258} and list(added.pieces) == [258]
    again = add_to_tokenizer(tokenizer, ("a", "CAVOK"))
    assert again.ids == added.ids and again.pieces == {} and len(tokenizer) == 259
    assert added.line().endswith("1 new, 5.0 pieces each before, 1 known before")


@pytest.mark.parametrize("train_on", ["assistant", "all"])
@pytest.mark.parametrize("plain", [True, False], ids=["shape", "long way"])
def test_tokens_in_prompt_and_answer_are_those_of_the_chat_template(tokenizer, train_on, plain):
    """Bracketed words are text that the user wants as one token; control tokens in the same rows stay escaped."""
    end = "" if plain else " <|im_end|>"
    messages = ({"role": "user", "content": f"<RWY> 23{end} QNH?"}, {"role": "assistant", "content": "CAVOK<RWY>雷暴"})
    encoder = ChatEncoder(tokenizer, train_on)
    assert not set(WORDS) & set(encoder.control.tokens)
    (example,) = encoder.encode(Sample({}, messages, "row"))
    if SANITIZES:
        theirs = tokenizer.apply_chat_template(list(messages), sanitize_control_tokens=True)["input_ids"]
        assert list(example.ids) == list(theirs)
    assert [id for id in example.ids if id >= 258] == [260, 259, 258, 260, 261]
    assert list(example.ids).count(257) == 2  # the template's two ends of turns, and not the row's
    trained = [label for label in example.labels if label != IGNORED]
    if train_on == "assistant":
        assert trained == [258, 260, 261, 257]
    asked = encoder.encode_prompt(list(messages[:1]))
    assert list(example.ids[: len(asked)]) == list(asked)
    if SANITIZES:
        options = {"sanitize_control_tokens": True, "add_generation_prompt": True}
        assert asked == list(tokenizer.apply_chat_template(list(messages[:1]), **options)["input_ids"])


def test_documents_have_them_too(tokenizer):
    encoder = DocumentEncoder(tokenizer)
    text = ({"role": "user", "content": "a<RWY> <|im_start|>"},)
    (fitted,) = encoder.fit([Sample({}, text, "row")], 99, "error")
    assert [id for id in fitted.examples[0].ids if id >= 256] == [260, 257]  # the document's end is the eos


def test_the_saved_tokenizer_knows_its_words_from_control_tokens(tokenizer, tmp_path):
    """T32's rule takes every bracketed added token for control; these are not, wherever the tokenizer goes."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert domain_tokens(again) == set(WORDS)
    assert control_tokens(again) == control_tokens(tokenizer) == control_tokens(byte_tokenizer())
    assert add_to_tokenizer(again, WORDS).ids == {word: 258 + i for i, word in enumerate(WORDS)}


def test_the_encoding_s_cache_key_has_them():
    digests = set()
    for words in ((), ("CAVOK",), ("CAVOK", "NSC"), ("NSC", "CAVOK")):
        tokenizer = byte_tokenizer()
        add_to_tokenizer(tokenizer, words)
        digests.add(tokenizer_digest(tokenizer))
    tokenizer.init_kwargs.pop("domain_tokens")  # then a bracketed one would be control
    assert len(digests | {tokenizer_digest(tokenizer)}) == 5


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("<|im_end|>", "'<|im_end|>' is a control token of the tokenizer"),
        ("A<|im_end|>", "'A<|im_end|>' holds the control token '<|im_end|>'"),
        ("A<", "'A<' ends as the control token"),
        (
            "Zürich",
            "'Zürich' would be written as 'Z\ufffdrich' by the tokenizer's decoder; one space before it may help",
        ),
        ("assistant", "'assistant': is in what the chat template itself writes"),
    ],
)
def test_words_that_would_break_something(word, said):
    """`A<` would be taken before `<|im_end|>` behind an A, and no turn would end. ü alone looks like a byte."""
    with pytest.raises(RecipeError) as caught:
        add_to_tokenizer(byte_tokenizer(), (word, "CAVOK"))
    assert str(caught.value).startswith("model.add_tokens: ") and said in str(caught.value)


def test_a_word_inside_a_control_token_leaves_it_whole():
    """The match that begins first wins: `start` within `<|im_start|>` is never cut out of it."""
    tokenizer = byte_tokenizer()
    add_to_tokenizer(tokenizer, ("start", " Zürich"))
    assert tokenizer.encode("<|im_start|>start", add_special_tokens=False) == [256, 258]
    assert tokenizer.decode([259]) == " Zürich"  # a space can't be a byte of the decoder's alphabet


def base(tied: bool, rows: int = 258):
    model = tiny_llama(rows)
    if tied:
        return model
    from transformers import LlamaForCausalLM

    torch.manual_seed(5)
    model.config.tie_word_embeddings = False
    return LlamaForCausalLM(model.config)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("rows", "after"), [(258, 261), (260, 261), (272, 272)], ids=["none", "some", "room"])
def test_first_rows_are_the_mean_of_the_pieces(tied, rows, after):
    """Rows 3, 5 and 7's mean, and row 9 itself; every other row as it was. A padded vocabulary is not resized."""
    model = base(tied, rows)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    grow(model, AddedTokens({"x": 258, "y": 259, "z": 260, "a": 4}, {258: (3, 5, 7), 259: (9,), 260: (1, 2)}))
    now = [layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    for old, new in zip(before, now, strict=True):
        assert new.shape[0] == after
        assert torch.allclose(new[258], (old[3] + old[5] + old[7]) / 3, atol=1e-7)
        assert torch.equal(new[259], old[9]) and torch.allclose(new[260], (old[1] + old[2]) / 2, atol=1e-7)
        assert torch.equal(new[:258], old[:258]) and torch.equal(new[261:], old[261:])
    assert model.config.vocab_size == after
    assert (now[0] is now[1]) == tied


def test_a_new_word_is_at_first_no_likelier_than_its_pieces():
    """Its logit is the mean of theirs, so exp(z_new) / Z <= mean of p(pieces), Z being that before (Jensen); a row at
    random, of a logit near 0, would take nearly all of a pretrained model's mass (Hewitt 2021)."""
    model = base(False)
    ids = torch.tensor([[72, 101, 5, 30, 200]])
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # logits that differ much
        before = model(ids).logits.double()
        grow(model, AddedTokens({"x": 258}, {258: (3, 5, 7)}))
        after = model(ids).logits.double()
    assert torch.allclose(after[..., 258], before[..., [3, 5, 7]].mean(-1), atol=1e-5)
    share = (after[..., 258] - before.logsumexp(-1)).exp()
    assert bool((share <= before.softmax(-1)[..., [3, 5, 7]].mean(-1) * (1 + 1e-5)).all())


def test_rows_are_trained_where_the_base_has_them():
    """Tied: in the one; untied: in both, so that the model can also say the token. Reward models have no output layer."""
    from finetune.model.score import with_score_head

    added = AddedTokens({"x": 259, "y": 258}, {258: (1,), 259: (2, 3)})
    models = base(True), base(False), with_score_head(base(False), ["right"])
    given = [with_token_rows(LORA, model, added).model_dump()["trainable_token_indices"] for model in models]
    assert given[0] == given[2] == {"model.embed_tokens": [258, 259]}
    assert given[1] == {"model.embed_tokens": [258, 259], "lm_head": [258, 259]}
    assert with_token_rows(LORA, models[0], AddedTokens()) is LORA


def test_what_can_t_be_trained_is_refused():
    added = AddedTokens({"x": 258}, {258: (1,)})
    pattern = LoraSection(target_modules=".*(q_proj|embed_tokens)")  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match="covers the vocabulary's layers too"):
        with_token_rows(pattern, base(True), added)
    biased = base(False)
    biased.lm_head = torch.nn.Linear(64, 258)
    with pytest.raises(RecipeError, match="output layer has biases"):
        with_token_rows(LORA, biased, added)
    with pytest.raises(RecipeError, match="258 rows, its tokenizer ids up to 258: not its tokenizer"):
        grow(base(True), AddedTokens({"x": 259}, {259: (1,)}))


def test_an_adapter_of_the_same_ids_for_other_tokens(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    other = add_to_tokenizer(byte_tokenizer(), ("CAVOK", "<RWY>"))
    check_same_tokens(add_to_tokenizer(byte_tokenizer(), WORDS), tmp_path, "key")
    with pytest.raises(RecipeError) as caught:
        check_same_tokens(other, tmp_path, "key")
    assert caught.value.problems == [
        f"key: id 259 is ' QNH' in {tmp_path}, here it is '<RWY>'; the same model.add_tokens in the same order"
    ]


FAMILIES = {
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, untied": ("llama", {"tie_word_embeddings": False}),
    "gpt2": ("gpt2", {}),
    "gemma3": ("gemma3", {"num_hidden_layers": 2}),
    "qwen3, untied": ("qwen3", {"num_hidden_layers": 2, "tie_word_embeddings": False}),
    "opt": ("opt", {}),
}
NEW = AddedTokens({"x": 96, "y": 97, "z": 7}, {96: (3, 5), 97: (8, 9, 11)})
WITH_NEW = torch.tensor([[5, 96, 80, 97, 44, 9, 7, 30], [97, 96, 12, 71, 3, 5, 28, 66]])


def trained_adapter(folder: Path, architecture: str, settings: dict, new: AddedTokens = NEW) -> tuple[Path, Path]:
    """A base on disk and an adapter of it with the rows of `new` trained, everything moved at random."""
    model = tiny_model(architecture, **settings)
    model.save_pretrained(folder / "base")
    grow(model, new)
    model.requires_grad_(False)
    lora = LORA.model_copy(update={"fan_in_fan_out": True} if architecture == "gpt2" else {})  # peft warns without
    tuned, _ = add_adapter(model, with_token_rows(lora, model, new), 0)
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return folder / "base", folder / "adapter"


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_the_adapter_and_only_the_listed_rows_differ(family, tmp_path):
    """T36 for new tokens: ids 96 and 97 beyond the base's 96 rows, and row 7 of its own, to 1e-5; the file of the
    adapter has three rows of each layer and no embedding."""
    place, adapter = trained_adapter(tmp_path, *FAMILIES[family])
    with torch.no_grad():
        expected = load_with_adapter(Source(str(place)), adapter)(WITH_NEW).logits
    rows = [t for name, t in load_file(adapter / "adapter_model.safetensors").items() if "trainable_tokens" in name]
    tied = "untied" not in family
    assert [len(tensor) for tensor in rows] == [3] * (1 if tied else 2)
    output = tmp_path / "merged"
    output.mkdir()
    merged = merge(place, adapter, output, None, "40KB")
    write_layout(place, place, output, dtype=merged.dtype, tied=merged.tied, vocabulary=merged.vocabulary)
    assert merged.vocabulary == 98 and merged.tied is None
    model = reload(output)
    assert model.config.get_text_config().vocab_size == 98
    with torch.no_grad():
        assert float((model(WITH_NEW).logits - expected).abs().max()) < 1e-5
    before = reload(place)
    for old, new in ((before.get_input_embeddings(), model.get_input_embeddings()),
                     (before.get_output_embeddings(), model.get_output_embeddings())):  # fmt: skip
        assert new.weight.shape[0] == 98
        moved = (new.weight[:96] != old.weight).any(1).nonzero().flatten().tolist()
        assert moved == [7]
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_rows_that_nobody_knows(tmp_path):
    """97 without 96 leaves a row behind the base's that is in no file; and an output layer must grow with its embedding."""
    place, adapter = trained_adapter(tmp_path, "llama", {"tie_word_embeddings": False})
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    output = tmp_path / "merged"
    output.mkdir()
    for indices, said in (
        (
            {"model.embed_tokens": [3, 7, 97], "lm_head": [3, 7, 97]},
            "97 is beyond the base's 96 rows, and nothing is known of row 96",
        ),
        ({"model.embed_tokens": [7, 96, 97], "lm_head": [3, 4, 7]}, r"model.embed_tokens.weight 98, lm_head.weight 96"),
    ):
        file.write_text(json.dumps(config | {"trainable_token_indices": indices}))
        with pytest.raises(RecipeError, match=said):
            merge(place, adapter, output, None)
    assert list(output.iterdir()) == []


def test_zeros_stand_behind_a_grown_tensor(tmp_path):
    """Read across the border of what the file has, in pieces of any size: 3 rows of 2 become 5."""
    from safetensors.torch import save_file

    save_file({"w": torch.arange(1.0, 7.0).reshape(3, 2)}, tmp_path / "w.safetensors")
    grown = Grown.of(tensors_of(tmp_path / "w.safetensors")["w"], 5)
    assert grown.shape == (5, 2) and grown.size == 40
    whole = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0]
    assert grown.load().flatten().tolist() == whole
    for start in range(10):
        for count in range(10 - start):
            assert grown.elements(start, count).tolist() == whole[start : start + count]
