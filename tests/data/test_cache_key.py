"""The cache key: everything that examples depend on goes into it, and nothing else."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from finetune.data import cache
from finetune.data.cache import cache_key, code_digest, tokenizer_digest
from finetune.recipe_data import DataSection, ScreenSection, SourceSection, SplitSection
from tests.conftest import byte_tokenizer
from tests.data.test_cache import section


class Source:
    """Two files, a folder of code, and a key of all of it."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "a.jsonl", folder / "b.jsonl"]
        for file in self.files:
            file.write_text('{"a": 1}\n')
        self.tokenizer = byte_tokenizer()
        self.data = section()

    def key(self, **changes) -> str:
        given = {"files": self.files, "tokenizer": self.tokenizer, "data": self.data, "template": "t", "rest": ("sft",)}
        return cache_key(**given | changes)


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path)


def test_the_same_again_has_the_same_key(source):
    """64 hexadecimal digits; a rewritten file of the same content and another tokenizer object change nothing."""
    key = source.key()
    source.files[0].write_text('{"a": 1}\n')
    assert source.key(tokenizer=byte_tokenizer()) == key
    assert len(bytes.fromhex(key)) == 32


def test_padding_and_truncation_are_no_part_of_the_key(source):
    """transformers sets both on the tokenizer's pipeline whenever it is called."""
    key = source.key()
    source.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert source.tokenizer.backend_tokenizer.padding is not None
    assert source.key() == key


def test_files_are_in_the_key(source):
    """Content, name, order and number of the files; the size may stay the same."""
    keys = {source.key(), source.key(files=source.files[::-1]), source.key(files=source.files[:1])}
    source.files[1].write_text('{"a": 2}\n')
    keys.add(source.key())
    moved = source.files[1].rename(source.files[1].with_name("c.jsonl"))
    keys.add(source.key(files=[source.files[0], moved]))
    assert len(keys) == 5


def changed_template(tokenizer):
    tokenizer.chat_template += " "


def added_token(tokenizer):
    tokenizer.add_tokens(["METAR"])


def other_merges(tokenizer):
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)


def other_bos(tokenizer):
    tokenizer.bos_token = "<|im_end|>"


def listed_control(tokenizer):
    tokenizer.chat_control_tokens = ["<tool>"]


@pytest.mark.parametrize("change", [changed_template, added_token, other_merges, other_bos, listed_control])
def test_the_tokenizer_is_in_the_key(source, change):
    key, digest = source.key(), tokenizer_digest(source.tokenizer)
    change(source.tokenizer)
    assert source.key() != key
    assert tokenizer_digest(source.tokenizer) != digest


OTHER = {
    "template": {"template": Path("t.yaml"), "format": None},
    "format": {"format": "alpaca"},
    "train": {"train": (SourceSection(path="t", repeat=2),)},
    "eval": {"eval": (SourceSection(path="e"),), "split": None},
    "split": {"split": SplitSection(eval_rows=2)},
    "max_length": {"max_length": 61},
    "too_long": {"too_long": "error"},
    "train_on": {"train_on": "all"},
    "special_tokens_in_data": {"special_tokens_in_data": "allow"},
    "packing": {"packing": True},
    "padding_free": {"padding_free": True},
    "allow_cross_doc": {"allow_cross_doc": True},
    "screen": {"screen": ScreenSection(near_duplicate_threshold=0.7)},
    "require_licence": {"require_licence": True},
}
NO_MATTER = {"workers": {"workers": 2}, "cache": {"cache": False}}


@pytest.mark.parametrize("name", DataSection.model_fields)
def test_every_setting_is_in_the_key(source, name):
    """Every field of the section, also one that is yet to come; but for the two that say how, not what."""
    change = (OTHER | NO_MATTER)[name]
    key = source.key(data=section(**change))
    assert (key == source.key()) == (name in NO_MATTER)


def test_template_and_rest_are_in_the_key(source):
    keys = [source.key(**change) for change in ({}, {"template": "u"}, {"template": None}, {"rest": ("sft", "0")})]
    assert len(set(keys)) == 4


def test_the_code_is_in_the_key(source, tmp_path, monkeypatch):
    """A changed, added or renamed file of finetune/data is another key; so is another version of a library."""
    copy = tmp_path / "code"
    shutil.copytree(Path(cache.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    digests = [code_digest(), code_digest(copy)]
    assert digests[0] == digests[1]
    (copy / "chat.py").write_text((copy / "chat.py").read_text() + "\n")
    digests.append(code_digest(copy))
    (copy / "new.py").touch()
    digests.append(code_digest(copy))
    assert len(set(digests)) == 3
    keys = [source.key()]
    monkeypatch.setattr(cache, "code_digest", partial(code_digest, copy))
    keys.append(source.key())
    monkeypatch.setattr(cache, "version", lambda name: "0")
    keys.append(source.key())
    assert len(set(keys)) == 3


def test_a_template_that_asks_for_the_date(source, monkeypatch):
    """Llama 3.2's prompt holds today's date: tomorrow its ids are others. A template without it has the same key."""

    class Tomorrow:
        @staticmethod
        def today() -> str:
            return "2999-01-01"

    plain = source.key()
    dated = byte_tokenizer()
    dated.chat_template += "{{ strftime_now('%d %b %Y') }}"
    today = source.key(tokenizer=dated)
    monkeypatch.setattr(cache, "date", Tomorrow)
    assert source.key() == plain
    assert source.key(tokenizer=dated) != today
