"""The command itself: which peer a file is for, what is written where, what is never written over, and the text of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.cli import main
from finetune.migrate.draft import Note
from finetune.migrate.write import comments, plain
from finetune.yamlfile import parse_scalar
from tests.migrate.configs import alpaca, importing, write_rows

LORA = {"model_name_or_path": "org/base", "use_peft": True, "packing": True, "dataset_name": "rows.jsonl"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.jsonl", alpaca(40))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"learning_rate": 1e-4, "seed": 3},
         "run.yaml: its keys are as well of LLaMA-Factory as of Axolotl as of TRL (2 of 2 each); say which with --from "
         "llamafactory|axolotl|trl"),
        ({"model_name_or_path": "org/base", "learning_rate": 1e-4},
         "run.yaml: its keys are as well of LLaMA-Factory as of TRL (2 of 2 each); say which with --from llamafactory|trl"),
        ({"colour": "red"},
         "run.yaml: none of its keys is one of LLaMA-Factory, Axolotl or TRL; which is it for? --from llamafactory|axolotl|trl"),
    ],
)  # fmt: skip
def test_a_file_that_could_be_of_several_is_not_guessed(capsys, config, told):
    done = importing(capsys, config)
    assert (done.code, done.told, done.file.exists()) == (2, [told], False)


def test_nothing_is_written_over_unless_asked(capsys):
    first = importing(capsys, LORA)
    first.file.write_text("mine", encoding="utf-8")
    again = importing(capsys, LORA)
    assert (again.code, again.told) == (2, ["run.recipe.yaml: is there already; --overwrite writes over it"])
    assert first.file.read_text(encoding="utf-8") == "mine"
    assert importing(capsys, LORA, "--overwrite").recipe.name == "run"
    own = importing(capsys, LORA, "--output", "run.yaml", "--overwrite")
    assert (own.code, own.told) == (2, ["run.yaml: is the file that is read; give the recipe another name"])


def test_paths_are_told_from_the_recipe_s_folder(capsys):
    done = importing(capsys, LORA, "--output", "recipes/new/sft.yaml")
    assert done.written == ["recipes/new/sft.yaml"]
    assert main(["check", "recipes/new/sft.yaml"]) == 0
    assert "    - {path: ../../rows.jsonl}\n" in Path("recipes/new/sft.yaml").read_text(encoding="utf-8")


def test_a_file_of_rows_that_is_not_there_is_told_and_the_recipe_written(capsys):
    done = importing(capsys, LORA | {"dataset_name": "data/rowz.jsonl"})
    assert done.code == 0
    assert (
        "dataset_name: data/rowz.jsonl: data/rowz.jsonl: no such file here; put it in place, or mend `path` in the recipe"
        in done.changed
    )
    assert done.told[-2:] == [
        "To be mended before it runs:", f"  run.recipe.yaml:28: data.train: no such file: {Path('data/rowz.jsonl').resolve()}",
    ]  # fmt: skip


def test_an_output_folder_that_is_there_is_told(capsys):
    Path("out").mkdir()
    done = importing(capsys, LORA | {"output_dir": "out"})
    assert (
        "output_dir: out: is there already, and a run does not write into a folder that is: give it another name"
        in done.changed
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.yaml", None, "gone.yaml: no such file"),
        ("empty.yaml", b" \n", "empty.yaml: is empty"),
        ("list.yaml", b"[1, 2]", "list.yaml: holds no mapping of keys to values"),
        ("wide.yaml", "seed: 1".encode("utf-16"), "wide.yaml: is not UTF-8 text"),
        ("twice.yaml", b"seed: 1\nseed: 2\n", "twice.yaml:2: seed: given twice"),
        (
            "train.py",
            b"from trl import SFTConfig\n",
            "train.py: is Python code, which is not run here; write the arguments of "
            "its SFTConfig, DPOConfig, ... and of its LoraConfig (as lora_r, lora_alpha, ...) into a YAML file, one a line",
        ),
        (".", None, ".: is a directory; one configuration is needed"),
    ],
)
def test_files_that_can_not_be_read(capsys, name, content, told):
    if content is not None:
        Path(name).write_bytes(content)
    assert main(["import", name]) == 2
    assert capsys.readouterr().err == told + "\n"


def test_a_stage_is_only_for_trl(capsys):
    done = importing(capsys, {"base_model": "org/base", "sequence_len": 4}, "--stage", "sft")
    assert (done.code, done.told) == (
        2,
        ["--stage: is for configurations of TRL; run.yaml is one of Axolotl, and says it itself"],
    )


def test_trackers_and_optimizers_that_are_not_installed_here(capsys, monkeypatch):
    """The recipe must load on this machine; what it lacks is told with the command that brings it."""
    import importlib.util

    found = importlib.util.find_spec
    missing = ("wandb", "bitsandbytes")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else found(name, *rest)
    )
    done = importing(capsys, LORA | {"report_to": "wandb", "optim": "adamw_8bit"})
    assert done.lost == [
        "optim: adamw_8bit: needs the package bitsandbytes (pip install bitsandbytes), not installed here; nearest: adamw_torch",
        "report_to: wandb: wandb is not installed here; nearest: pip install wandb, then report_to: [wandb]",
    ]
    assert (done.recipe.train.optim, done.recipe.report_to) == ("adamw_torch", ())


def test_lion_gets_the_betas_of_adamw_as_transformers_hands_them_on(capsys):
    done = importing(capsys, LORA | {"optim": "lion_32bit"})
    assert done.recipe.train.optim_args == {"beta1": 0.9, "beta2": 0.999}


@pytest.mark.parametrize(
    "value",
    [
        None, True, 5e-5, 1e-5, 0.1, 3.0, 1e9, 7, "", "no", "12:30", "1e-5", "null", "true", " a", "a # b", "a: b", "- a", "[x]",
        "问题", "it's", 'say "a"', "a\nb", "*x", "&x", "@x", "C:\\x", "~", "007", "0x10", "é\u200b",
    ],
)  # fmt: skip
def test_values_read_back_as_they_were_written(value):
    assert parse_scalar(plain(value)) == value
    assert type(parse_scalar(plain(value))) is type(value)


def test_lists_and_mappings_read_back():
    value = [{"path": "a, b.jsonl", "weight": 0.5}, {"hub": "org/x@main", "split": "train[:10]"}]
    assert parse_scalar(plain(value)) == value


def test_comments_are_wrapped_under_their_titles():
    notes = [Note("idle", "plot_loss: true", "is in metrics.jsonl"), Note("lost", "a: 1", "word " * 40, "b")]
    assert [line for line in comments(notes) if "word" not in line] == [
        "#", "# Without an equivalent:", "#", "# Not needed here:", "# - plot_loss: true: is in metrics.jsonl",
    ]  # fmt: skip
    assert all(len(line) <= 116 for line in comments(notes))
