"""Everything shipped is executed: recipes (base swapped for a tiny one), templates, samples, README commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli import main
from finetune.commands import command_parser
from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from finetune.recipefile import load_recipe
from tests.conftest import ROOT

RECIPES = sorted(file for file in (ROOT / "recipes").rglob("*.yaml") if "name" in yaml.safe_load(file.read_text()))
TEMPLATES = sorted((ROOT / "data_templates").rglob("*.yaml"))
READMES = [
    ROOT / f"{name}{language}.md"
    for name in ("README", "docs/recipe", "docs/reliability")
    for language in ("", ".zh-CN")
]
FOR_OPERATORS = [
    ROOT / f"docs/{name}{language}.md"
    for name in ("serving", "verify", "lineage", "data_template", "families", "report", "air_gapped")
    for language in ("", ".zh-CN")
]


def test_the_globs_found_files():
    stems = {file.stem for file in RECIPES}
    assert stems >= {"metar_decode", "cashflow", "metar_grpo", "metar_distill", "cashflow_tools", "law_questions"}
    assert {file.stem for file in TEMPLATES} >= {"metar_decode", "cashflow"}


def small(base: Path, output: Path, recipe: Path | None = None) -> list[str]:
    """Overrides that turn any recipe into a run of seconds on the tiny base.

    Args:
        recipe: with keys of its stages beyond those that all have.
    """
    told = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe else {}
    stages = {"": told} | {f"stages.{number}.": stage for number, stage in enumerate(told.get("stages", []))}
    settings = [
        f"model.name_or_path={base}", "model.gguf_file=null", "model.dtype=float32", "device=cpu",
        f"output_dir={output}", "data.max_length=4096", "train.max_steps=2", "train.num_train_epochs=null",
        "train.torch_compile=false", "train.optim=adamw_torch", "train.global_batch_size=2",
        "evaluate.rows=3", "evaluate.max_new_tokens=4",
        "gate.min={}", "gate.better_than_base=false", "export.parity_rows=1",
        *(f"{at}grpo.{key}" for at, stage in stages.items() if "grpo" in stage
          for key in ("num_generations=2", "max_completion_length=4")),
        *(f"{at}data.max_length=256" for at, stage in stages.items() if stage.get("stage") == "cpt"),
        *(f"{at}distill.teacher={{name_or_path: {base}}}" for at, stage in stages.items() if "distill" in stage),
    ]  # fmt: skip
    return [part for setting in settings for part in ("--set", setting)]


QUICK = ("metar_decode", "compliant_wording_dpo")  # by the command, on all rows; the others with the slow tests
ASKED = {"general/questions": 240}  # never trained on: a probe need not be as long as a sample to train on
PACK = ("pack_gpu", "pack_npu")  # of packs: tests/packs/test_packs.py


def id_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


@pytest.mark.parametrize("recipe", [file for file in RECIPES if file.stem in QUICK], ids=id_of)
def test_a_recipe_runs_to_a_bundle_by_its_command(recipe, tiny_base, tmp_path):
    assert main(["check", str(recipe)]) == 0
    assert main(["train", str(recipe), *small(tiny_base, tmp_path / "run", recipe)]) == 0
    manifest = json.loads((tmp_path / "run/bundle/MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["scores"]["tuned"].keys() == manifest["intervals"]["tuned"].keys()  # of answers and of losses
    again = load_recipe(tmp_path / "run/bundle/recipe.yaml")
    assert again.name == load_recipe(recipe).name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [file for file in RECIPES if file.stem not in (*QUICK, *PACK)], ids=id_of)
def test_every_recipe_runs_to_a_bundle(recipe, tiny_base, tiny_tool_base, tmp_path):
    """All rows are checked; on twenty of each part it trains."""
    from finetune.run import Extent, run

    assert main(["check", str(recipe)]) == 0
    template = load_recipe(recipe).data.template
    base = tiny_tool_base if template and "\ntools:" in template.read_text(encoding="utf-8") else tiny_base
    settings = small(base, tmp_path / "run", recipe)[1::2]
    result = run(load_recipe(recipe, settings), extent=Extent(rows=20))
    assert result.bundle == tmp_path / "run/bundle" and (result.bundle / "MANIFEST.json").is_file()
    again = load_recipe(result.bundle / "recipe.yaml")
    assert again.name == load_recipe(recipe).name


@pytest.mark.parametrize("file", TEMPLATES, ids=id_of)
def test_every_template_holds_its_examples_and_renders_its_sample(file):
    """Worked examples run at load; the sample beside the template has at least 1,000 rows, or 600 kB, no two alike; one that
    is only asked, as many as ASKED says."""
    template = load_template(file)
    sample = next(file.parent.glob(f"{file.stem}.sample.json*"))
    samples = template.render_all(read_source(SourceSection(path=str(sample))))
    assert len(samples) >= ASKED.get(id_of(file), 1000) or sample.stat().st_size >= 600_000
    prompts = {json.dumps([message["content"] for message in sample.prompt]) for sample in samples}
    assert len(prompts) == len(samples)


def test_metar_sample_holds_more_than_2000_rows_and_no_station_twice_over_the_split():
    from finetune.inputs import load_data

    data = load_data(load_recipe(ROOT / "recipes/meteorology/metar_decode.yaml"))
    assert len(data.train) + len(data.evaluate) >= 2000 and len(data.evaluate) == 200
    stations = [{sample.record["station_id"] for sample in part} for part in (data.train, data.evaluate)]
    assert not stations[0] & stations[1]


def commands(files: list[Path]) -> list[str]:
    """Every command line of the bash blocks in these files, once; continued lines joined, comments cut."""
    found = []
    for readme in files:
        for block in re.findall(r"```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("  #")[0].strip()
                if command and not command.startswith("#"):
                    found.append(command)
    return list(dict.fromkeys(found))


def prepare_run(run: Path, folder: Path, command: str) -> None:
    """A finished run under the names that the READMEs use."""
    shutil.copytree(run, folder / "runs/metar_decode")
    if command != "export":
        shutil.copytree(run / "bundle", folder / "exported")


def test_every_command_for_operators_is_understood():
    """They need servers, hubs and several runs, which tests/verify and tests/export have; here their spelling."""
    found = [line for line in commands(FOR_OPERATORS) if line.startswith("finetune ")]
    assert len(found) >= 9
    for line in found:
        command_parser().parse_args(shlex.split(line)[1:])


def all_commands() -> list[Any]:
    """Those that read or train on all rows are slow; one of training is not."""
    found = commands(READMES)
    whole = ("finetune audit", "finetune show", "finetune train", "finetune evaluate", "finetune gate")
    slow = [line for line in found if line.startswith(whole)]
    slow.remove(next(line for line in slow if line.startswith("finetune train")))
    return [pytest.param(line, marks=pytest.mark.slow if line in slow else []) for line in found]


@pytest.mark.parametrize("command", all_commands())
def test_every_readme_command(command, finished_run, tiny_base, tmp_path, monkeypatch, capsys):
    """`finetune` commands run (training on the tiny base); scripts exist and are executable; others are listed here."""
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "data_templates", "scripts"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    words = shlex.split(command)
    if words[0] in ("./scripts/quickstart.sh", "./scripts/test.sh"):  # run whole by people and CI
        assert (ROOT / words[0]).stat().st_mode & 0o111
        return
    if words[:2] == ["accelerate", "launch"]:
        script = next(word for word in words if word.endswith(".py"))
        assert script == "scripts/train.py"
        words = ["finetune", "train", *words[words.index(script) + 1 :]]
    if words[:3] == ["python", "-m", "http.server"] or words[0] in (
        "git",
        "cd",
        "source",
        "pip",
        "ct2-transformers-converter",
    ):
        return
    assert words[0] == "finetune", f"this test does not know how to run: {command}"
    if words[1] in ("export", "verify", "merge", "reproduce", "chat"):  # of the example's run, and what is made of it
        prepare_run(finished_run[0].output_dir, tmp_path, words[1])
    if words[1] == "smoke" or any(
        word.startswith("http") for word in words
    ):  # tests/test_smoke.py, tests/verify run them
        command_parser().parse_args(words[1:])
        return
    extra = small(tiny_base, tmp_path / "run") if words[1] in ("train", "evaluate", "gate") else []
    if words[1] in ("evaluate", "gate"):  # of a run that there has to be
        assert main(["train", words[2], *extra]) == 0
    assert main([*words[1:], *extra]) == 0
    capsys.readouterr()
