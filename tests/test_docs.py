"""The documents stay true: every key of a recipe is in the table, with its default; both languages have it."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from pydantic_core import PydanticUndefined

from finetune.commands import command_parser
from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.recipe import Recipe
from finetune.recipe_peft import PEFT_SECTIONS
from finetune.recipe_stages import STAGE_SECTIONS
from finetune.recipefile import section_class
from finetune.schema.recipe import recipe_schema
from finetune.yamlfile import read_yaml
from tests.conftest import ROOT
from tests.data.chats import golden, golden_names


def keys(model=Recipe, prefix="") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        inner = None if f"{prefix}{name}" in ("data.train", "data.eval") else section_class(field.annotation)
        if inner:
            found |= keys(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.default
    return found


def of_a_stage(key: str) -> bool:
    return key.partition(".")[0] in STAGE_SECTIONS


def documented(table: list[str]) -> dict[str, str]:
    """Keys and what stands for their defaults, out of the rows of tables."""
    found: dict[str, str] = {}
    for line in table:
        names, defaults, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
        shown = re.findall(r"`([^`]+)`", defaults)
        for index, key in enumerate(re.findall(r"`([^`]+)`", names)):
            found[key] = shown[index] if index < len(shown) else defaults
    return found


def assert_defaults(told: dict[str, str], wanted: dict[str, object]) -> None:
    for key, default in wanted.items():
        if isinstance(default, bool | int | float) and default is not PydanticUndefined:
            assert yaml.safe_load(told[key].replace("e-", ".0e-")) == default, key


@pytest.mark.parametrize("name", ["docs/recipe.md", "docs/recipe.zh-CN.md"])
def test_every_key_is_documented_with_its_default(name):
    keys_part = (ROOT / name).read_text(encoding="utf-8").split("\n## ")[0]
    told = documented([line for line in keys_part.splitlines() if line.startswith("| `")])
    wanted = {key: default for key, default in keys().items() if not of_a_stage(key)}
    assert told.keys() - {f"{kind}.*" for kind in PEFT_SECTIONS} == wanted.keys()
    assert_defaults(told, wanted)


@pytest.mark.parametrize("name", ["docs/stages.md", "docs/stages.zh-CN.md"])
def test_every_key_of_a_stage_is_documented_with_its_default(name):
    stages = "|".join(STAGE_SECTIONS)
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    told = documented([line for line in lines if re.match(rf"\| `({stages})\.", line)])
    wanted = {key: default for key, default in keys().items() if of_a_stage(key)}
    assert told.keys() == {key for key in wanted if not key.startswith("distill.teacher.")} | {
        "distill.teacher.name_or_path"
    }
    assert_defaults(told, {key: default for key, default in wanted.items() if key in told})


@pytest.mark.parametrize("name", ["docs/data_template.md", "docs/data_template.zh-CN.md"])
def test_the_template_in_the_document_works(name, tmp_path):
    text = (ROOT / name).read_text(encoding="utf-8")
    file = tmp_path / "t.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    template = load_template(file)
    sample = template.render(Row({"sensor": "T1", "ch4_pct": 0.4, "minutes": 5, "grade": "normal"}, "f", 1))
    assert sample.answer == "grade: normal"


def refused_templates() -> list[list[str]]:
    """Names of the golden chat templates by why conversations are refused, in the order of the documents' table."""
    groups: list[list[str]] = [[], [], [], [], []]
    for name in golden_names():
        refused = {key: reason for key, reason in golden(name)["trained"].items() if isinstance(reason, str)}
        prompts = {key: reason for key, reason in refused.items() if "a server will see" in reason}
        hopeless = any("another chat template" in reason for reason in prompts.values())
        groups[0] += [name] if hopeless else []
        groups[1] += [name] if "single" in prompts and not hopeless else []
        groups[2] += [name] if prompts and "single" not in prompts else []
        groups[3] += [name] if any("does not show the tool call" in reason for reason in refused.values()) else []
        groups[4] += [name] if any("refuses the conversation" in reason for reason in refused.values()) else []
    return groups


@pytest.mark.parametrize("name", ["docs/data_template.md", "docs/data_template.zh-CN.md"])
def test_the_refused_chat_templates_are_those_of_the_golden_tests(name):
    """T23: what the document promises to refuse, and nothing else, is refused; the golden tests hold the same files."""
    section = (ROOT / name).read_text(encoding="utf-8").rsplit("\n## ", 1)[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert [re.findall(r"`([^`]+)`", row.strip("|").split("|")[-1]) for row in rows] == refused_templates()
    assert f" {len(golden_names())} " in section


PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Keys by which a block is a data template, a metric's cases, or a configuration of lm-eval or LLaMA-Factory.
OTHERS = {"columns", "messages", "metric", "cases", "examples", "dataset_path", "model_name_or_path"}
MADE_ON_ITS_PAGE = "recipes/cold_chain/"  # by docs/new_pack.md, which tests/test_new_pack_docs.py runs


def code_blocks(page: Path, kind: str = "") -> list[str]:
    """The text of a page's blocks of code, of one kind or of all."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{kind}\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def typed_lines(page: Path) -> list[str]:
    """Every `finetune` command in a page's blocks, without variables before it, redirections and comments after it."""
    lines = [line.strip() for block in code_blocks(page) for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    commands = [re.sub(r"^(?:\w+=\S+ )+", "", line.partition("  #")[0]) for line in lines]
    return [re.split(r" [>|&]", line)[0].strip() for line in commands if line.startswith("finetune ")]


def test_every_command_of_every_page_is_understood_and_its_recipes_are_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in typed_lines(page)]
    assert len(found) >= 300
    for page, line in found:
        words = shlex.split(line)[1:]
        try:
            command_parser().parse_args(words)
        except SystemExit as ended:
            assert not ended.code, f"{page}: {line}"
        files = [word for word in words if word.startswith(("recipes/", "data_templates/")) and word.endswith(".yaml")]
        missing = [name for name in files if not name.startswith(MADE_ON_ITS_PAGE) and not Path(name).is_file()]
        assert missing == [], f"{page}: {line}"


def test_every_piece_of_a_recipe_on_a_page_has_keys_and_values_that_there_are(tmp_path):
    """By the schema that editors use, which asks nothing of a piece but that it be right."""
    schema = recipe_schema()
    of_recipes, told = Draft7Validator(schema), 0
    for page in PAGES:
        for number, block in enumerate(code_blocks(page, "yaml")):
            file = tmp_path / f"{page.stem}.{number}.yaml"
            file.write_text(
                block.replace("...", "shown: {}") if page.stem.startswith("stages") else block, encoding="utf-8"
            )
            data = yaml.safe_load(block)
            if not isinstance(data, dict) or data.keys() & OTHERS:
                continue
            errors = [
                error.message for error in of_recipes.iter_errors(read_yaml(file)[0]) if "shown" not in error.message
            ]
            assert errors == [], f"{page.relative_to(ROOT)}: {block}"
            told += 1
    assert told >= 40
