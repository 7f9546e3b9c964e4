"""Encodings declared and detected: what was guessed is said, what is uncertain is asked."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from finetune.data.compressed import plain_suffix
from finetune.data.source import read_source
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

CHINESE = "煤矿企业必须对安全生产工作负总责。\n第二条：矿山开采，瓦斯浓度不得超过1.0%！\n"
FRENCH = "Le café est très près du château.\nÇa coûte 5 £ à Noël, déjà payé.\n"
GERMAN = "Größe über Normal, Prüfung der Güte durchgeführt\n"


def read(tmp_path, content: bytes, encoding: str = "auto") -> tuple[str, list[str]]:
    (tmp_path / "x.txt").write_bytes(content)
    notes: list[str] = []
    (row,) = read_source(SourceSection(path=str(tmp_path / "x.txt"), encoding=encoding), notes)
    return row.values["text"], [note.removeprefix(f"{tmp_path}/") for note in notes]


def refusal(tmp_path, content: bytes, encoding: str = "auto", name: str = "x.txt") -> list[str]:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_source(SourceSection(path=str(tmp_path / name), encoding=encoding))
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


GUESSED = "x.txt: not UTF-8, read as {}; `encoding:` says otherwise"


@pytest.mark.parametrize(
    ("text", "encoding", "notes"),
    [
        (CHINESE, "utf-8", []),
        (CHINESE, "utf-8-sig", []),
        (CHINESE, "utf-16", ["x.txt: read as UTF-16 (byte order mark)"]),
        (CHINESE, "utf-32", ["x.txt: read as UTF-32 (byte order mark)"]),
        (CHINESE, "gb18030", [GUESSED.format("gb18030")]),
        ("合格 OK\n" * 5 + "㐀𠀀", "gb18030", [GUESSED.format("gb18030")]),  # four-byte characters
        (FRENCH, "latin-1", [GUESSED.format("latin-1")]),
        (GERMAN, "latin-1", [GUESSED.format("latin-1")]),
        (FRENCH, "utf-8", []),
    ],
)
def test_detected(tmp_path, text, encoding, notes):
    """T44 (part): the text comes out exact, and any encoding other than UTF-8 is named."""
    assert read(tmp_path, text.encode(encoding)) == (text, notes)


def test_detected_behind_megabytes_of_ascii(tmp_path):
    """The bytes that tell may come late; the sample is taken where they are."""
    text = "plain ascii line\n" * 150_000 + CHINESE
    assert read(tmp_path, text.encode("gb18030")) == (text, [GUESSED.format("gb18030")])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "gb18030"), (CHINESE, "utf-16-le"), (CHINESE, "utf-16-be"), (CHINESE, "utf-7"), (CHINESE, "hz"),
        ("礦山", "big5"), ("鉱山の安全", "shift_jis"), ("“quoted” – 5 €", "cp1252"), (FRENCH, "latin-1"), ("a\nb", "cp500"),
    ],
)  # fmt: skip
def test_declared(tmp_path, text, encoding):
    assert read(tmp_path, text.encode(encoding), encoding) == (text, [])


def test_uncertain_bytes_are_not_guessed(tmp_path):
    """T44 (part): damage in UTF-8 and Windows quotes are no latin-1; line, column and byte are named."""
    ask = "and no other encoding fits; say it, for example `encoding: gb18030`, `cp1252` or `utf-16`"
    broken = CHINESE.encode() + "好".encode()[:2] + b"\n"
    mixed = "but the text before it is: damage, or two encodings in one file; or say `encoding:`"
    assert refusal(tmp_path, broken) == [f"x.txt:3:1: not UTF-8 (byte 0xe5), {mixed}"]
    late = FRENCH.encode() * 30_000 + b"\xe9\n"  # megabytes of good UTF-8 stand before the wrong byte
    assert refusal(tmp_path, late) == [f"x.txt:60001:1: not UTF-8 (byte 0xe9), {mixed}"]
    assert refusal(tmp_path, "a\n“x”".encode("cp1252")) == [f"x.txt:2:1: not UTF-8 (byte 0x93), {ask}"]
    assert refusal(tmp_path, "plain text".encode("utf-16-be")) == [
        "x.txt: looks like UTF-16 without a byte order mark; say `encoding: utf-16-be`"
    ]


def test_declared_wrongly(tmp_path):
    """T44 (part): every line that is not in the declared encoding is named."""
    assert refusal(tmp_path, b'{"a": "caf\xe9"}\n{}\n{"b": "\xff"}\n', "utf-8", "x.jsonl") == [
        "x.jsonl:1:11: not UTF-8 (byte 0xe9)",
        "x.jsonl:3:8: not UTF-8 (byte 0xff)",
    ]
    assert refusal(tmp_path, "a矿".encode("utf-16"), "gb18030") == [
        "x.txt: declared as gb18030, but begins with the byte order mark of utf-16"
    ]
    assert refusal(tmp_path, b"a", "gb18031") == ["x.txt: encoding: 'gb18031' is not known; did you mean 'gb18030'?"]
    assert refusal(tmp_path, b"a", "hex")[0].startswith("x.txt: encoding: 'hex' is not known")
    assert refusal(tmp_path, b"a\0b", "utf-16-le") == ["x.txt: not UTF-16-LE: truncated data"]


def test_latin1_json_lines_are_read_and_said(tmp_path):
    """T44 (part): a latin-1 file, where `datasets` gives a decoding error without file and line."""
    (tmp_path / "x.jsonl").write_bytes(b'{"a": "caf\xe9"}\n')
    notes: list[str] = []
    (row,) = read_source(SourceSection(path=str(tmp_path / "x.jsonl")), notes)
    assert row.values == {"a": "café"}
    assert notes == [f"{tmp_path}/x.jsonl: not UTF-8, read as latin-1; `encoding:` says otherwise"]


@pytest.mark.parametrize(
    ("first", "second", "byte"),
    [
        ("瓦斯浓度\n".encode(), "不得超过\n".encode("gb18030"), "b2"),
        ("不得超过\n".encode("gb18030"), "瓦斯浓度\n".encode() * 9, None),
        ("déjà\n".encode(), "café été Noël\n".encode("latin-1"), "e9"),
    ],
)
def test_two_encodings_in_one_file_are_not_read_as_either(tmp_path, first, second, byte):
    """T44: a file put together from two: read as one of them, half of it would be trained as other characters."""
    (problem,) = refusal(tmp_path, first + second)
    assert problem.startswith("x.txt:")
    if byte:
        assert f"(byte 0x{byte}), but the text before it is: damage, or two encodings in one file" in problem


def test_gb18030_that_begins_like_utf8_is_still_told(tmp_path):
    """`一` is D2 BB, which is a Cyrillic letter in UTF-8: the line behind it shows what the file is."""
    text = "一\n二级警戒水位，三级警戒水位。\n"
    assert read(tmp_path, text.encode("gb18030")) == (text, [GUESSED.format("gb18030")])


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.txt"])
def test_binary_data_is_called_that(tmp_path, name):
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
    assert refusal(tmp_path, content, name=name) == [
        f"{name}: holds binary data, not text; `kind:` says how else to read it"
    ]


def rows_of(path, kind: str = "jsonl") -> list[tuple[int, dict]]:
    return [(row.line, row.values) for row in read_source(SourceSection(path=str(path), kind=kind))]


ROWS = b'{"a": 1}\n{"a": "\xc3\xa9"}\n'


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.jsonl"])
def test_compressed_files_are_read_by_what_is_in_them(tmp_path, name):
    """T44: gzip of two members, Zstandard of two frames; the ending matters to the kind only, and lines are those inside."""
    pack = pytest.importorskip("zstandard").compress if name.endswith("zst") else gzip.compress
    (tmp_path / name).write_bytes(pack(ROWS[:9]) + pack(ROWS[9:]))
    assert rows_of(tmp_path / name) == [(1, {"a": 1}), (2, {"a": "é"})]
    (tmp_path / name).write_bytes(pack(CHINESE.encode("gb18030") * 15_000))  # more than one block
    (row,) = rows_of(tmp_path / name, "text")
    assert row[1]["text"] == CHINESE * 15_000


@pytest.mark.parametrize("cut", [12, -12])
def test_a_damaged_or_cut_archive_is_named(tmp_path, cut):
    """T44: half a download."""
    whole = gzip.compress(ROWS * 5000)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"x.jsonl.gz: can't be read: the .gz file is damaged or cut off"):
        rows_of(tmp_path / "x.jsonl.gz")
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:30] + b"\0\0\0\0" + whole[34:])
    with pytest.raises(DataError, match=r"x.jsonl.gz: can't be read: "):
        rows_of(tmp_path / "x.jsonl.gz")


def test_zstandard_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "x.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd....")
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "x.jsonl.zst")
    label = tmp_path / "x.jsonl.zst"
    assert caught.value.problems == [
        f"{label}: can't be read: reading .zst needs zstandard; pip install 'finetune[zstd]'"
    ]


def test_the_ending_that_names_the_kind():
    names = ("a.jsonl", "a.JSONL.gz", "a.b.csv.zst", "a.gz", "a")
    assert [plain_suffix(Path(name)) for name in names] == [".jsonl", ".jsonl", ".csv", "", ""]
