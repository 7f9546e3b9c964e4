"""The commands as one set: examples, --json, --quiet, exit codes, colours and completion are the same everywhere."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune.cli import main
from finetune.clihelp import EXAMPLES, EXIT_CODES
from finetune.commands import COMMANDS, command_parser
from finetune.device import colours
from tests.conftest import ROOT, write_tiny_recipe
from tests.test_shipped import commands

WITHOUT_JSON = {"completion", "schema", "show"}  # whose output is for a shell, is JSON, is for eyes


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command, and the kinds of those that have some."""

    def below(parser: argparse.ArgumentParser, at: str) -> dict[str, argparse.ArgumentParser]:
        found = {}
        for action in parser._actions:
            for name, inner in action.choices.items() if isinstance(action, argparse._SubParsersAction) else ():
                found |= {f"{at}{name}": inner} | below(inner, f"{at}{name} ")
        return found

    return below(command_parser(), "")


def test_every_command_has_examples_that_are_understood(capsys):
    assert parsers().keys() == EXAMPLES.keys() and {name.split()[0] for name in EXAMPLES} == COMMANDS.keys()
    count = 0
    for name, told in EXAMPLES.items():
        with pytest.raises(SystemExit) as ended:
            main([*name.split(), "--help"])
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        for typed, what in told:
            assert f"  {typed}\n      {what}\n" in shown
            words = shlex.split(typed.partition(" > ")[0])
            assert words[: 1 + len(name.split())] == ["finetune", *name.split()]
            command_parser().parse_args(words[1:])
            count += 1
    assert count >= 30


def test_options_common_to_all():
    """--quiet everywhere it can stand; --json wherever there is a result for programs, and the same one."""
    told = parsers()
    leaves = {name: parser for name, parser in told.items() if parser._subparsers is None}
    options = {
        name: {word for action in its._actions for word in action.option_strings} for name, its in leaves.items()
    }
    assert [name for name, words in options.items() if "--quiet" not in words] == []
    assert {name for name, words in options.items() if "--json" not in words} == WITHOUT_JSON
    helps = {a.help for its in leaves.values() for a in its._actions if "--json" in a.option_strings}
    assert len(helps) == 1


def test_the_exit_codes_are_those_of_the_program(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert EXIT_CODES in capsys.readouterr().out
    told = [int(code) for code in re.findall(r"^  (\d+)  ", EXIT_CODES, re.MULTILINE)]
    from finetune import clihelp

    assert told == sorted(
        value for name, value in vars(clihelp).items() if name.startswith("EXIT_") and isinstance(value, int)
    )


@pytest.mark.parametrize("name", ["docs/cli.md", "docs/cli.zh-CN.md"])
def test_the_page_has_every_command_and_every_exit_code(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    rows = {row[0].strip(" `"): row for row in cells}
    assert COMMANDS.keys() - rows.keys() == set()
    assert {command for command in COMMANDS if not rows[command][2].strip()} == WITHOUT_JSON
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert codes == [int(code) for code in re.findall(r"^  (\d+)  ", EXIT_CODES, re.MULTILINE)]


def test_the_page_s_commands_run(tmp_path, monkeypatch, capsys):
    """And print what it says; the other language has the same."""
    name, other = "docs/cli.md", "docs/cli.zh-CN.md"
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "data_templates"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    text = (ROOT / name).read_text(encoding="utf-8")
    assert commands([ROOT / name]) == commands([ROOT / other])
    typed = [line.partition(" > ")[0] for line in commands([ROOT / name]) if line.startswith("finetune ")]
    assert len(typed) == 7
    printed = []
    for line in typed:
        assert main(shlex.split(line)[1:]) == 0, line
        printed.append(capsys.readouterr().out)
    shown = re.search(r"```\n(train\.learning_rate .*?)```", text, re.DOTALL)[1]
    assert shown in printed and shown in (ROOT / other).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "check.json").read_text())["name"] == "metar_decode"
    assert (tmp_path / "my_recipes/recipe.schema.json").read_text() == (ROOT / "recipes/recipe.schema.json").read_text()


def test_json_is_one_object_on_stdout_and_all_else_on_stderr(tiny_base, tiny_data, tmp_path, capsys):
    recipe = str(write_tiny_recipe(tmp_path, tiny_base, tiny_data))
    assert main(["check", recipe, "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found == {
        "recipe": recipe, "name": "tiny", "suites": {}, "lm_eval": [], "previous": None,
        "runs": [{"name": "tiny", "stage": "sft", "train": 31, "held_out": 9, "notes": found["runs"][0]["notes"]}],
    }  # fmt: skip
    assert told.err.startswith(f"{recipe}: right; 31 samples to train on, 9 held out\n")
    assert main(["check", recipe, "--json", str(tmp_path / "c.json")]) == 0
    assert capsys.readouterr().out == told.err and json.loads((tmp_path / "c.json").read_text()) == found
    assert main(["audit", recipe, "--json", "--output", str(tmp_path / "audit")]) == 0
    files = [str(tmp_path / f"audit/{name}") for name in ("audit.json", "audit.html")]
    assert json.loads(capsys.readouterr().out) == {
        "recipe": "tiny", "failed": False, "runs": [{"name": "tiny", "failed": False, "files": files}],
    }  # fmt: skip


def test_json_of_what_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(
        "ship,bft,delay\n" + "".join(f"MV {i // 3},{i % 9},{'none' if i % 2 else 'days'}\n" for i in range(36))
    )

    def told(*words: str) -> dict:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert told("new", "template", "rows.csv", "--output", "t.yaml") == {"files": ["t.yaml"]}
    pack = told("new", "pack", "rows.csv", "--industry", "shipping", "--task", "port_delay")
    assert pack | {"files": 0} == {
        "files": 0, "answer": "delay", "metric": "label", "group": "ship", "train": 27, "held_out": 9,
    }  # fmt: skip
    assert len(pack["files"]) == 11 and all(Path(file).is_file() for file in pack["files"])
    texts = ("The power is cut above 1.5 % of methane.", "Ropes are taken off after two years.", "Pumps run weekly.")
    passages = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    questions = [{"question": "When is the power cut?", "answer": "1.5 %", "gold": "0"}]
    for name, rows in (("p.jsonl", passages), ("q.jsonl", questions)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    raft = told(
        "raft", "q.jsonl", "p.jsonl", "--output", "r.jsonl", "--folds", "1", "--distractors", "1", "--without-gold", "0"
    )
    assert raft == {"file": "r.jsonl", "rows": 1, "without_gold": 0, "folds": 1}


@pytest.mark.slow
def test_a_run_its_export_and_its_repetition_as_json(tiny_base, tiny_data, tmp_path, capsys):
    recipe, run = str(write_tiny_recipe(tmp_path, tiny_base, tiny_data)), tmp_path / "run"

    def told(*words: str) -> dict:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    trained = told("train", recipe)
    manifest = json.loads((run / "bundle/MANIFEST.json").read_text())
    assert trained == {"name": "tiny", "bundle": str(run / "bundle"), "scores": manifest["scores"]}
    exported = told("export", str(run), "--output", str(tmp_path / "exported"))
    assert exported == {"bundle": str(tmp_path / "exported"), "pushed": []}
    again = told("reproduce", str(run / "bundle"), "--output", str(tmp_path / "again"))
    assert again["same"] is True and again["again"] == str(tmp_path / "again/bundle")
    evaluated = told("evaluate", recipe)
    assert evaluated["passed"] and evaluated["scores"] == manifest["scores"]
    asked = told("verify", str(tmp_path / "exported"))
    assert asked["passed"] and asked["name"] == "tiny"
    merged = told("merge", f"{run / 'adapter'}=0.5", str(run / "adapter"), "--output", str(tmp_path / "both"))
    assert merged["adapter"] == str(tmp_path / "both")


def test_json_says_what_is_wrong_too(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("name: n\nsed: 1\nlora: {rr: 1}\n")
    assert main(["check", str(tmp_path / "r.yaml")]) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert main(["check", str(tmp_path / "r.yaml"), "--json"]) == 2
    told = capsys.readouterr()
    assert told.err == plain.err
    found = json.loads(told.out)
    assert (found["command"], found["exit_code"]) == ("check", 2)
    assert ["several things are wrong:", *found["problems"]] == plain.err.splitlines()
    assert main(["check", str(tmp_path / "r.yaml"), "--json", str(tmp_path / "no/such.json")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{tmp_path / 'no/such.json'}: can't be written: ")


def test_json_does_not_write_over_a_recipe(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("name: n\n")
    for words in (
        ["doctor", "--json", str(tmp_path / "r.yaml")],
        ["check", "x.yaml", "--json", str(tmp_path / "r.yaml")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "r.yaml would be written to; put --json after the recipe" in capsys.readouterr().err
    assert (tmp_path / "r.yaml").read_text() == "name: n\n"


def test_the_gate_as_json_whether_it_passes_or_not(tiny_base, tiny_data, tmp_path, capsys):
    """`gate` reads scores that lie there; what it decides is release.json."""
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    (tmp_path / "run").mkdir()
    scores = {"base": {"exact_match": 0.25}, "tuned": {"exact_match": 0.75}}
    (tmp_path / "run/scores.json").write_text(json.dumps({"scores": scores, "intervals": None}))
    for bound, code in ((0.5, 0), (0.9, 3)):
        assert main(["gate", str(recipe), "--set", f"gate.min.exact_match={bound}", "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert told == json.loads((tmp_path / "run/release.json").read_text())
        assert told["passed"] is (code == 0) and [check["key"] for check in told["checks"]] == ["gate.min.exact_match"]


def test_quiet_prints_what_is_wrong_and_nothing_else(tiny_base, tiny_data, tmp_path, capsys):
    recipe = str(write_tiny_recipe(tmp_path, tiny_base, tiny_data))
    assert main(["check", recipe, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["check", recipe, "--quiet", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["name"] == "tiny" and told.err == ""
    assert main(["check", recipe, "--quiet", "--set", "trian.x=1"]) == 2
    assert capsys.readouterr() == ("", "--set: trian: unknown key; did you mean 'train'?\n")
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "1,x\n2,y\n" * 20)
    assert main(["new", "template", str(rows), "--output", str(tmp_path / "t.yaml"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "") and yaml.safe_load((tmp_path / "t.yaml").read_text())["name"] == "t"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_is_respected(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours(Terminal()) and not colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # as if it were not set, by no-color.org
    assert colours(Terminal())


def completed(script: Path, words: list[str]) -> list[str]:
    """What bash completes the last of these words to."""
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1};"
        'f=$(complete -p finetune); f=${f##*-F }; ${f%% *}; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()


def test_bash_completes_commands_options_choices_files_and_keys(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "finetune.bash"
    script.write_text(capsys.readouterr().out)
    for words, wanted in (
        (["ex"], ["explain", "export"]),
        (["plan", "r.yaml", "--ha"], ["--hardware"]),
        (["plan", "r.yaml", "--hardware", "h100"], ["h100-80g"]),
        (["new", "pack", "--gr"], ["--group"]),
        (["check", "recipes/smol"], ["recipes/smollm2_cpu.yaml"]),
        (["explain", "recipes/smollm2_cpu.yaml", "train.learn"], ["train.learning_rate"]),
    ):
        assert completed(script, ["finetune", *words]) == wanted, words
    for shell in ("zsh", "fish", "tcsh", "powershell"):
        assert main(["completion", shell]) == 0
        assert "finetune" in capsys.readouterr().out


def test_help_imports_neither_pydantic_nor_shtab():
    heavy = "{'pydantic', 'shtab', 'torch', 'rich'}"
    code = f"import sys, finetune.cli; finetune.cli.command_parser(); print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_reader_that_stops_is_no_traceback():
    """As `head` does: the other end of the pipe is closed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "finetune.cli", "schema"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
