"""`finetune new pack`: what it writes runs, what it refuses leaves nothing, a second task finds its place."""

from __future__ import annotations

import errno
import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from finetune.cli import main
from finetune.commands import command_parser
from finetune.data.rows import Row
from finetune.data.scaffold import guess_template
from finetune.newpack.facts import facts_of, guess_group, languages_of
from finetune.newpack.parents import PARENTS
from finetune.recipefile import load_recipe
from finetune.yamlfile import read_yaml
from tests.conftest import ROOT
from tests.test_shipped import small

ROWS = [
    {"ship": f"MV {'ABCDEFGHIJKL'[i // 3]}", "wind_bft": i % 9, "queue": i % 5, "delay": ["none", "hours", "days"][i * i % 3]}
    for i in range(36)
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(rows: list[dict], name: str = "calls.csv") -> Path:
    """Rows as CSV or JSON Lines in the current folder."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Path(name)


def new_pack(sample: Path | str, *options: str, task: str = "port_delay") -> int:
    return main(["new", "pack", str(sample), "--industry", "shipping", "--task", task, *options])


def files(folder: Path = Path()) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_parents_are_those_that_ship():
    assert {name: (ROOT / "recipes" / name).read_text(encoding="utf-8") for name in PARENTS} == PARENTS


def test_a_csv_becomes_a_pack(capsys):
    """36 rows of 12 ships: a sixth is 6, so 8 are held out, which are 3 ships and 9 rows."""
    sample = write(ROWS)
    assert new_pack(sample) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "answer: delay (the last column; --answer names another); metric: label",
        "group: ship (guessed: rows that share it stay on one side; --group names another)",
        "rows: 27 to train on, 9 held out",
    ]
    written = [line.removeprefix("wrote ") for line in said if line.startswith("wrote ")]
    assert sorted(written) == [name for name in files() if name != "calls.csv"] == [
        "data_templates/shipping/port_delay.sample.csv", "data_templates/shipping/port_delay.yaml",
        "data_templates/template.schema.json", "docs/packs/shipping.md", "docs/packs/shipping.zh-CN.md",
        "recipes/qwen2_5_7b_gpu.yaml", "recipes/recipe.schema.json",
        "recipes/shipping/pack_gpu.yaml", "recipes/shipping/pack_npu.yaml", "recipes/shipping/port_delay.yaml",
        "recipes/smollm2_cpu.yaml",
    ]  # fmt: skip
    assert Path("data_templates/shipping/port_delay.sample.csv").read_bytes() == sample.read_bytes()
    for path in (
        "recipes/smollm2_cpu.yaml",
        *(name for name in written if "/shipping/" in name and name.endswith(".yaml")),
    ):
        told = (
            Path(path).read_text(encoding="utf-8").partition("\n")[0].partition("# yaml-language-server: $schema=")[2]
        )
        schema = json.loads((Path(path).parent / told).read_text(encoding="utf-8"))  # which lies there
        assert Draft7Validator(schema).is_valid(read_yaml(Path(path))[0])
    for name in ("port_delay", "pack_gpu", "pack_npu"):
        assert main(["check", f"recipes/shipping/{name}.yaml"]) == 0
    recipes = [load_recipe(Path(f"recipes/shipping/{name}.yaml")) for name in ("port_delay", "pack_gpu", "pack_npu")]
    assert [(r.name, r.device, r.train.optim) for r in recipes] == [
        ("port_delay", "auto", "adamw_torch"),
        ("shipping_gpu", "auto", "adamw_torch"),
        ("shipping_npu", "npu", "adamw_torch_npu_fused"),
    ]
    assert all(r.card.limits.startswith("EDIT ME") and r.data.split.by == "ship" for r in recipes)
    steps = said[said.index("next:") + 1 :]
    assert [shlex.split(line)[1] for line in steps] == ["check", "show", "train"]


@pytest.mark.parametrize("page", ["shipping.md", "shipping.zh-CN.md"])
def test_the_page_is_true(page):
    """Its links lead somewhere, its commands can be read, its table names what was written."""
    assert new_pack(write(ROWS)) == 0
    text = Path("docs/packs", page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == 3 and all((Path("docs/packs") / link).is_file() for link in links)
    commands = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
    for line in (line.split("  #")[0] for line in commands):
        words = shlex.split(line[line.index("finetune") :])
        assert Path(command_parser().parse_args(words[1:]).recipe).is_file()
    assert text.count("EDIT ME") >= 6 and "{" not in text


@pytest.mark.slow
def test_the_recipe_runs_to_a_bundle(tiny_base):
    """With the lengths that were guessed: the tiny base has a token for each byte, which is the bound they stand on."""
    assert new_pack(write(ROWS)) == 0
    file = Path("recipes/shipping/port_delay.yaml")
    told = load_recipe(file)
    assert (told.data.max_length, told.evaluate.max_new_tokens) == (128, 8)
    overrides = [*small(tiny_base, Path("run")), "--set", "data.max_length=128", "--set", "evaluate.max_new_tokens=8"]
    assert main(["train", str(file), *overrides]) == 0
    assert "EDIT ME: learnt from 36 sample rows" in Path("run/bundle/README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_smoke(tiny_base):
    assert new_pack(write(ROWS)) == 0
    base = ["--set", f"model.name_or_path={tiny_base}", "--set", "model.gguf_file=null"]
    assert main(["smoke", "recipes/shipping/port_delay.yaml", *base]) == 0


def test_a_second_and_a_third_task(capsys):
    """What is printed for pack_gpu.yaml makes it train two tasks, then three; files of the pack stay as they are."""
    assert new_pack(write(ROWS)) == 0
    for number, (task, rows) in enumerate(
        (("berth", [row | {"berth": f"berth {i}"} for i, row in enumerate(ROWS)]),
         ("hours", [row | {"hours": i / 4} for i, row in enumerate(ROWS)])), 2
    ):  # fmt: skip
        before = {name: Path(name).read_bytes() for name in files()}
        capsys.readouterr()
        assert new_pack(write(rows, f"{task}.jsonl"), task=task) == 0
        said = capsys.readouterr().out
        assert {name: Path(name).read_bytes() for name in before} == before
        assert f"docs/packs/shipping.md is there already; its table needs\n| `{task}`: gives {task} | en |" in said
        paste(Path("recipes/shipping/pack_gpu.yaml"), said)
        assert f"global_batch_size: {16 * number}, evaluate.max_new_tokens: " in said
        for name in ("pack_gpu", "pack_npu"):
            assert main(["check", f"recipes/shipping/{name}.yaml"]) == 0
    parts = load_recipe(Path("recipes/shipping/pack_gpu.yaml")).mixture
    assert [part.name for part in parts] == ["shipping_gpu.port_delay", "shipping_gpu.berth", "shipping_gpu.hours"]


def paste(pack: Path, said: str) -> None:
    """The printed block where the line above it says."""
    where, block = re.search(r"write (.*?), train.*?:\n((?:mixture:\n)?(?:  .*\n)+)", said).groups()
    text = pack.read_text(encoding="utf-8")
    if where == "in place of `data:`":
        text = re.sub(r"data:\n(  .*\n)+", lambda _: block, text)
    else:
        assert where == "at the end of `mixture:`"
        text = text.replace("train:\n", f"{block}train:\n")
    pack.write_text(text, encoding="utf-8")


def test_a_pack_recipe_that_can_not_be_read_is_left_alone(capsys):
    pack = Path("recipes/shipping/pack_gpu.yaml")
    pack.parent.mkdir(parents=True)
    pack.write_text("- not\n- a recipe\n")
    assert new_pack(write(ROWS)) == 0
    assert (
        "pack_gpu.yaml is there already; to train this task with it, write under `mixture:`" in capsys.readouterr().out
    )
    assert pack.read_text() == "- not\n- a recipe\n"


def test_what_is_there_is_named_all_at_once_and_nothing_is_written(capsys):
    assert new_pack(write(ROWS), "--into", "out") == 0
    Path("out/data_templates/shipping/port_delay.sample.csv").unlink()
    before = {name: Path(name).read_bytes() for name in files()}
    capsys.readouterr()
    assert new_pack("calls.csv", "--into", "out") == 2
    assert capsys.readouterr().err.splitlines() == [
        "several things are wrong:",
        "out/data_templates/shipping/port_delay.yaml: is there already",
        "out/recipes/shipping/port_delay.yaml: is there already",
    ]
    assert {name: Path(name).read_bytes() for name in files()} == before


def test_a_sample_that_lies_in_its_place_stays_and_so_do_own_parents():
    place = Path("data_templates/shipping/port_delay.sample.csv")
    place.parent.mkdir(parents=True)
    shutil.move(write(ROWS), place)
    Path("recipes").mkdir()
    parent = Path("recipes/smollm2_cpu.yaml")
    parent.write_text(PARENTS["smollm2_cpu.yaml"].replace("r: 16", "r: 4"), encoding="utf-8")
    assert new_pack(place) == 0
    assert load_recipe(Path("recipes/shipping/port_delay.yaml")).lora.r == 4


def test_a_full_disk_leaves_nothing(monkeypatch, capsys):
    def full(source, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert new_pack(write(ROWS), "--into", "a/b") == 4
    assert files() == ["calls.csv"] and not Path("a").exists()


def test_a_place_that_can_not_be_written_leaves_nothing(capsys):
    write(ROWS)
    Path("docs").write_text("a file")
    assert new_pack("calls.csv") == 2
    assert "docs/packs/shipping.md: can't be written: " in capsys.readouterr().err
    assert files() == ["calls.csv", "docs"] and not Path("recipes").exists()


@pytest.mark.parametrize("kind", ["jsonl.gz", "json", "tsv", "xlsx", "parquet"])
def test_any_kind_of_file(kind):
    sample = Path(f"calls.{kind}")
    if kind == "jsonl.gz":
        sample.write_bytes(gzip.compress(write(ROWS, "calls.jsonl").read_bytes()))
    elif kind == "json":
        sample.write_text(json.dumps(ROWS))
    elif kind == "tsv":
        sample.write_text(write(ROWS).read_text().replace(",", "\t"))
    elif kind == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in (list(ROWS[0]), *(list(row.values()) for row in ROWS)):
            book.active.append(row)
        book.save(sample)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sample)
    assert new_pack(sample) == 0
    assert Path(f"data_templates/shipping/port_delay.sample.{kind}").read_bytes() == sample.read_bytes()
    assert main(["check", "recipes/shipping/port_delay.yaml"]) == 0


CHAT = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 12


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        ([], (), "calls.jsonl: holds no rows"),
        ([{"a": i} for i in range(12)], (),
         "calls.jsonl: a question and an answer need two columns whose values are of one type each"),
        (CHAT, (), "calls.jsonl: holds ready conversations; `data.format: messages` (or `auto`) needs no template"),
        (ROWS[:9], (), "calls.jsonl: 9 rows; 10 are needed to run at all, and some hundred to learn from"),
        ([row | {"delay": None if i > 6 else "x"} for i, row in enumerate(ROWS)], (),
         "calls.jsonl: 7 rows have an answer (29 more have none); 10 are needed to run at all, and some hundred to learn from"),
        ([row | {"delay": "" if i in (2, 5) else "x"} for i, row in enumerate(ROWS)], (),
         "calls.jsonl:3: delay: the answer is empty (2 rows: 3, 6); write one, or null, or leave the row out"),
        (ROWS, ("--answer", "dely"), "calls.jsonl: dely: can't be the answer column; did you mean 'delay'?"),
        (ROWS, ("--group", "shp"), "calls.jsonl: --group: no column shp; did you mean 'ship'?"),
        (ROWS, ("--group", "delay"),
         "calls.jsonl: --group: delay is the answer column; a group is what several rows are about"),
        ([row | {"ship": "A"} for row in ROWS], ("--group", "ship"),
         "calls.jsonl: --group: all rows have the same ship; two sides need two groups"),
        ([row | {"ship": [1]} for row in ROWS], ("--group", "ship"),
         "calls.jsonl: --group: ship holds a list in each row; a name or number is needed"),
        ([row | {"ship": i if i % 2 else "A"} for i, row in enumerate(ROWS)], ("--group", "ship"),
         "calls.jsonl: --group: the values of ship are not all of one type"),
    ],
)  # fmt: skip
def test_rows_that_make_no_pack(rows, options, problem, capsys):
    assert new_pack(write(rows, "calls.jsonl"), *options) == 2
    assert capsys.readouterr().err.splitlines() == [problem]
    assert files() == ["calls.jsonl"]


def test_names_and_places_that_are_none(capsys):
    write(ROWS)
    arguments = ["--industry", "sea/port", "--task", "pack_gpu", "--into", "calls.csv"]
    assert main(["new", "pack", "calls.cvs", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "--industry: 'sea/port' names files and a run: letters a to z, digits, _ and - are needed",
        "--task: pack_gpu is the name of the whole pack's recipe; choose another",
        "calls.cvs: no such file; did you mean 'calls.csv'?",
        "--into: calls.csv: is not a folder",
    ]
    assert new_pack(Path()) == 2
    assert capsys.readouterr().err == ".: is a folder; give one file of rows\n"


def test_what_check_refuses_is_not_written(capsys):
    """A key in the rows; the message names the sample, not a temporary copy."""
    rows = [row | {"note": f"api_key=AKIAIOSFODNN7EXAMPL{i % 10}"} for i, row in enumerate(ROWS)]
    assert new_pack(write(rows, "calls.jsonl"), "--answer", "delay") == 2
    assert f"{Path.cwd()}/calls.jsonl:1: " in capsys.readouterr().err
    assert files() == ["calls.jsonl"]


def test_a_guessed_group_over_which_rows_are_copies_is_let_go(capsys):
    """Ships written in two ways: split by them, copies (but for case) would lie on both sides, which check refuses."""
    ships = [{"ship": f"{'s' if i < 18 else 'S'}{i % 18 // 3}", "queue": i % 18, "delay": i % 18} for i in range(36)]
    assert guess_group(guessed(ships)) == "ship"
    assert new_pack(write(ships)) == 0
    assert "group: none found" in capsys.readouterr().out
    assert new_pack("calls.csv", "--group", "ship", task="again") == 2
    assert "again" not in " ".join(files())


@pytest.mark.parametrize(
    "word", ["if", "loop", "range", "self", "record", "None", "super", "null", "1e5", "港口", "a: b"]
)
def test_columns_named_like_words_of_jinja_and_yaml(word):
    rows = [{word: f"x{i // 3}", "queue": i, "delay": i % 4} for i in range(12)]
    assert new_pack(write(rows, "calls.jsonl"), "--group", word) == 0
    assert load_recipe(Path("recipes/shipping/port_delay.yaml")).data.split.by == word


def guessed(rows: list[dict], group: str | None = None):
    return guess_template([Row(row, "f", n) for n, row in enumerate(rows, 1)], "t", group=group)


def test_which_column_is_the_group():
    """The finest name that comes several times: not choices, not numbers, not long text; a number called an id where
    there is no name."""
    assert guess_group(guessed(ROWS)) == "ship"
    by_number = [{"imo": 9_000_000 + i // 3, "wind_bft": i % 9, "delay": i} for i in range(36)]
    assert guess_group(guessed(by_number)) == "imo"
    assert guess_group(guessed([{"wind_bft": i % 9, "delay": i} for i in range(36)])) is None
    assert guess_group(guessed([{"text": f"{i // 3} " + "word " * 20, "delay": i} for i in range(36)])) is None
    assert guess_group(guessed([{"line": f"l{i % 4}", "delay": i} for i in range(36)])) is None
    assert "choices" in guessed([{"line": f"l{i % 4}", "delay": i} for i in range(36)]).columns["line"]
    assert guessed([{"line": f"l{i % 4}", "delay": i} for i in range(36)], "line").columns["line"] == {"type": "str"}


def test_facts_by_hand():
    """600 rows: 100 held out; 3 x 500 / 16 = 93.75 steps, at most 90. The longest row, "q: 港599" (9 bytes) + "\\nGive a."
    (8) + "a: 599" (6), is 23 bytes + 64 of the chat template = 87, up to a multiple of 64: 128. The answer is 6 + 2."""
    facts = facts_of(guessed([{"q": f"港{i}", "a": i} for i in range(600)]), None)
    assert (facts.rows, facts.eval_rows, facts.max_steps) == (600, 100, 90)
    assert (facts.max_length, facts.max_new_tokens) == (128, 8)
    few = facts_of(guessed([{"q": f"q{i}", "a": i} for i in range(12)]), None)
    assert (few.eval_rows, few.max_steps) == (6, 30)
    assert facts_of(guessed([{"q": f"q{i}", "a": i} for i in range(1300)]), None).eval_rows == 200


def test_languages():
    def said(text: str) -> tuple[str, ...]:
        return languages_of(guessed([{"q": text, "a": 1}] * 2).rendered.samples)

    assert said("A long sentence in English.") == ("en",)
    assert said("一段很长很长很长很长很长很长的中文") == ("zh",)
    assert said("半句中文半句中文半句 half English") == ("zh", "en")
