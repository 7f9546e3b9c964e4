"""What users hand over by mistake: every command answers in one line that says what is wrong, never with a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.errors import RecipeError, plainly, writing

JUNK = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
BINARY = "holds binary data, not text; `kind:` says how else to read it"
ENDS = "the text before it is: damage, or two encodings in one file; or say `encoding:`"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder for the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def answer(capsys, *arguments: str) -> tuple[int, list[str]]:
    code = main(list(arguments))
    return code, capsys.readouterr().err.splitlines()


FILES = {
    "empty.jsonl": (b"", "holds no rows"),
    "empty.csv": (b"\n\n", "holds no rows"),
    "header.csv": (b"a,b\n", "holds no rows"),
    "list.json": (b"[]", "holds no rows"),
    "junk.jsonl": (JUNK, BINARY),
    "junk.csv": (JUNK, BINARY),
    "junk.txt": (JUNK, BINARY),
    "mixed.csv": ("a,b\n中文,1\n".encode() + "中文,2\n".encode("gb18030"), f"3:1: not UTF-8 (byte 0xd6), but {ENDS}"),
    "nul.csv": (b"a,b\n1,\x002\n", "2:3: a NUL byte"),
    "deep.jsonl": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"b":1}\n', "1: nested too deeply"),
    "scalar.json": (b"3", "1: an object is needed, got int"),
    "one.csv": (b"a\n1\n", "a question and an answer need two columns whose values are of one type each"),
    "wide.jsonl": (
        json.dumps({"a": "x" * 1_000_000, "b": "y"}).encode(),
        "every row is longer than 50,000 characters; a worked example can't be",
    ),
    "chat.jsonl": (
        b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
        "holds ready conversations; `data.format: messages` (or `auto`) needs no template",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_give_no_template(name, folder, capsys):
    """T44: one line on stderr that names the file, exit code 2, nothing written."""
    content, problem = FILES[name]
    (folder / name).write_bytes(content)
    between = ":" if problem[0].isdigit() else ": "
    assert answer(capsys, "new", "template", name, "--output", "out/t.yaml") == (2, [f"{name}{between}{problem}"])
    assert not (folder / "out").exists()


def test_places_that_give_no_template(folder, capsys):
    (folder / "rows.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (folder / "empty").mkdir()
    new = ("new", "template")
    code, (line,) = answer(capsys, *new, "empty", "--output", "t.yaml")
    assert (code, line.partition(";")[0]) == (2, "empty: no file of a known kind")
    assert answer(capsys, *new, "row.csv", "--output", "t.yaml") == (
        2,
        ["row.csv: no such file or folder; did you mean 'rows.csv'?"],
    )
    assert answer(capsys, *new, "rows.csv", "--output", "rows.csv") == (2, ["rows.csv: is there already"])
    assert answer(capsys, *new, "rows.csv", "--output", "rows.csv/t.yaml") == (
        2,
        ["rows.csv/t.yaml: can't be written: File exists"],
    )


def test_audits_that_can_t_be_written(tiny_recipe, tmp_path, capsys):
    tiny_recipe()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    command = ["audit", str(tmp_path / "tiny.yaml"), "--output"]
    assert answer(capsys, *command, str(tmp_path / "file")) == (
        2,
        [f"{tmp_path}/file: can't be written: File exists"],
    )
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


def test_a_full_disk_is_no_mistake():
    with pytest.raises(OSError, match="No space left"), writing(Path("x")):
        raise OSError(28, os.strerror(28))


RECIPES = {
    "data=3": "--set: data: a section of keys is needed; got 3",
    "data.train=3": "--set: data.train.0: a section of keys is needed; got 3",
    "data.train=": "--set: data.train: a list is needed; got None",
    "data.train={}": "--set: data.train.0: give exactly one of `path` and `hub`",
    "data.train={path: 3}": "--set: data.train.0.path: text is needed; got 3",
    "data.template=3": "--set: data.template: text is needed; got 3",
    "data.template=folder": "{here}/folder: is a directory; a YAML file is needed",
    "data.screen.benchmarks=[3]": "--set: data.screen.benchmarks.0: text is needed; got 3",
    "data.screen.benchmarks=[junk]": "data.screen.benchmarks: {here}/junk: can't tell the kind of a file without ending",
    "data.train=folder": "{here}/folder: no file of a known kind",
    "data.train=rows.csv": "{here}/rows.csv:2: a: is missing; the row also has: c",
    "data.train={path: rows.csv, format: messages}": "{here}/rows.csv:2: messages: is missing; the row has: b, c",
}


@pytest.mark.parametrize("override", RECIPES)
def test_overrides_that_can_t_be(override, tiny_recipe, folder, capsys):
    """T47: the first line names the key or the file, and what is wrong with it."""
    tiny_recipe()
    (folder / "folder").mkdir()
    (folder / "junk").write_bytes(JUNK)
    (folder / "rows.csv").write_text("b,c\n1,2\n", encoding="utf-8")
    code, lines = answer(capsys, "check", "tiny.yaml", "--set", override)
    first = next(line for line in lines if line != "several things are wrong:")
    assert code == 2 and first.startswith(RECIPES[override].replace("{here}", str(folder)))


@pytest.mark.parametrize("rows", ["0", "-3", "x"])
def test_show_of_no_rows(rows, tiny_recipe, tmp_path, capsys):
    tiny_recipe()
    with pytest.raises(SystemExit) as stopped:
        main(["show", str(tmp_path / "tiny.yaml"), "--rows", rows])
    assert stopped.value.code == 2
    assert f"a whole number from 1 on is needed, got {rows!r}" in capsys.readouterr().err


def test_words_for_what_pydantic_finds():
    assert plainly({"type": "value_error", "msg": "Value error, Give one"}) == "give one"
    assert plainly({"type": "tuple_type", "msg": "Input should be a valid tuple"}) == "a list is needed"


def test_the_error_names_the_place():
    with pytest.raises(RecipeError, match=r"^/x/y: can't be written: Permission denied$"), writing(Path("/x/y")):
        raise PermissionError(13, "Permission denied")
