"""`pack:` names: shipped recipes and templates found from any folder, and recipes of one's own begun as one of them."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune import __version__
from finetune.cli import main
from finetune.errors import RecipeError
from finetune.newrecipe import child_of, copy_of, shipped_list
from finetune.recipefile import load_recipe
from finetune.shipped import name_from, recipe_file, shipped_folder, shipped_recipes
from tests.conftest import ROOT
from tests.test_cli import parsers

RUN = {name: file for name, file in shipped_recipes().items() if "name" in yaml.safe_load(file.read_text())}
SOME = (
    "meteorology/metar_decode",
    "meteorology/metar_grpo",
    "mining/pack_npu",
    "mining/pack_gpu",
    "power/power_law_cpt",
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_has_a_name_and_a_line_in_the_list():
    assert shipped_folder() == ROOT
    assert set(shipped_recipes().values()) == set((ROOT / "recipes").rglob("*.yaml"))
    assert [line.split()[0] for line in shipped_list()] == sorted(RUN, key=lambda name: shipped_recipes()[name])
    assert [line for line in shipped_list() if len(line.split()) < 4] == []  # what it is for
    assert not {"smollm2_cpu", "qwen2_5_7b_gpu"} & set(RUN)


@pytest.mark.parametrize("name", SOME)
def test_a_copy_and_a_child_mean_the_same_run_from_any_folder(name, elsewhere):
    """Every key has the same value, paths included; a child differs in its name and in where its run goes."""
    shipped = load_recipe(RUN[name])
    copy = elsewhere / "copy.yaml"
    copy.write_text(copy_of(name, RUN[name]))
    assert load_recipe(copy) == shipped
    child = elsewhere / "child.yaml"
    child.write_text(child_of(name, shipped.name, bool(shipped.stages or shipped.mixture)))
    assert load_recipe(child, [f"output_dir={shipped.output_dir}"]) == shipped
    assert ("--copy" in child.read_text()) == bool(shipped.stages or shipped.mixture)


def test_no_copy_has_a_path_that_leads_nowhere():
    assert len(RUN) > 60
    for name, file in RUN.items():
        text = re.sub(r"#.*", "", copy_of(name, file))
        assert "../" not in text, name
        for parent in re.findall(r"^extends: (\S+)", text, re.MULTILINE):
            assert recipe_file(parent).is_file(), name
        files = re.findall(r"pack:([\w./-]+\.(?:yaml|jsonl|md))", text)
        assert [missing for missing in files if not (ROOT / "data_templates" / missing).exists()] == [], name


def test_commands_take_the_name_of_a_shipped_recipe(elsewhere, capsys):
    """The list, a child, its check; the shipped one by its name with the same rows."""
    assert main(["new", "recipe", "finance/identifiers", "--output", "mine.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "wrote mine.yaml"
    assert main(["check", "mine.yaml"]) == 0
    own = capsys.readouterr().out.partition(": ")[2]
    assert main(["check", "pack:finance/identifiers"]) == 0
    assert capsys.readouterr().out.partition(": ")[2] == own
    assert main(["new", "recipe", "finance/identifiers", "--output", "mine.yaml"]) == 2
    assert capsys.readouterr().err == "mine.yaml: is there already\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finance/identifier"], "pack:finance/identifier: no shipped recipe has that name (`finetune new recipe` lists "
         "them); did you mean 'finance/identifiers'?"),
        (["../finance/cashflow"], "pack:../finance/cashflow: no shipped recipe has that name"),
        (["smollm2_cpu"], "pack:smollm2_cpu: is what other recipes extend and has no rows of its own; `extends: "
         "pack:smollm2_cpu` in yours"),
        (["finance/cashflow", "--output", "我的.yaml"], "--output: 我的.yaml: its name is the run's"),
        (["--copy"], "--output, --copy: of which recipe?"),
    ],
)  # fmt: skip
def test_what_can_not_be_written(arguments, said, elsewhere, capsys):
    assert main(["new", "recipe", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_names_that_nothing_shipped_has(elsewhere, capsys):
    (elsewhere / "a.yaml").write_text("extends: pack:finance/cashflo\n")
    with pytest.raises(
        RecipeError, match=r"a\.yaml:1: extends: pack:finance/cashflo: no .* did you mean 'finance/cashf"
    ):
        load_recipe(elsewhere / "a.yaml")
    (elsewhere / "b.yaml").write_text("extends: pack:finance/cashflow\ndata:\n  template: pack:finance/cashflw.yaml\n")
    with pytest.raises(
        RecipeError, match=r"b\.yaml:3: data\.template: no such file: .* did you mean 'cashflow\.yaml'\?"
    ):
        load_recipe(elsewhere / "b.yaml")
    assert main(["check", "pack:finance"]) == 2
    assert capsys.readouterr().err.startswith("pack:finance: no shipped recipe has that name")


def test_the_version_stands_in_one_place_and_the_changelog_begins_with_it():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "finetune.__version__"}
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading and heading[1] == __version__


def test_what_is_checked_before_a_commit_is_checked_by_ci():
    """Each hook is a line of scripts/test.sh, by the environment's own tool."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    lines = [line.removesuffix(" .") for line in (ROOT / "scripts/test.sh").read_text().splitlines()]
    assert [hook["entry"] for hook in hooks] == [line for line in lines if line.startswith(("ruff", "mypy"))]
    assert {(repo["repo"], hook["language"]) for repo in config["repos"] for hook in repo["hooks"]} == {
        ("local", "system")
    }


def test_every_command_takes_the_name():
    """Wherever a recipe is to be read, by a path or by its name."""
    found = {}
    for name, parser in parsers().items():
        for action in parser._actions:
            if action.dest in ("recipe", "recipes"):
                found[name] = action.type
    assert len(found) >= 14 and "explain" in found
    assert {name for name, kind in found.items() if kind is not recipe_file} == set()


def test_what_a_recipe_calls_a_shipped_file(tmp_path, monkeypatch):
    """Of an installed wheel its name, which an upgrade keeps; of a checkout, and of files of one's own, the relative path."""
    assert name_from(ROOT / "recipes/mining", RUN["meteorology/metar_decode"]) == "../meteorology/metar_decode.yaml"
    packs = tmp_path / "site/finetune/packs"
    monkeypatch.setattr("finetune.shipped.shipped_folder", lambda: packs)
    assert name_from(tmp_path, packs / "recipes/mining/gas_alarm.yaml") == "pack:mining/gas_alarm"
    assert name_from(tmp_path, packs / "data_templates/mining/gas_alarm.jsonl") == "pack:mining/gas_alarm.jsonl"
    assert name_from(tmp_path / "own", tmp_path / "rows.jsonl") == "../rows.jsonl"
