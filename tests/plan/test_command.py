"""The command: what it says, its exit codes, JSON, advice, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune.cli import main
from finetune.plan import hardware as table
from finetune.plan.hardware import CPU, HARDWARE, find, names
from finetune.plan.report import size, span
from tests.conftest import ROOT, write_tiny_recipe


@pytest.fixture
def file(tmp_path, tiny_base, tiny_data):
    return write_tiny_recipe(tmp_path, tiny_base, tiny_data)


def ask(capsys, *words) -> tuple[int, dict]:
    code = main(["plan", *map(str, words), "--json", "-"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def small(monkeypatch):
    """A GPU whose memory is `reserve` and as much beside it as asked for."""

    def make(beside: int) -> str:
        row = replace(HARDWARE["h100-80g"], name="small", memory=HARDWARE["h100-80g"].reserve + beside)
        monkeypatch.setitem(table.HARDWARE, "small", row)
        return "small"

    return make


def test_rows_steps_and_parts(capsys, file):
    """Of 40 rows 8 or more are held out; 9 steps of 4; the tiny Llama's adapter r 4 trains 10,240 numbers."""
    code, told = ask(capsys, file, "--hardware", "h100-80g")
    assert code == 0 and told["fits"]
    assert told["rows"]["exact"] and told["rows"]["items"] + 8 <= 40
    assert told["layout"]["steps"] == 9 and told["layout"]["micro_batch"] == 4
    assert told["layout"]["epoch_steps"] == told["rows"]["items"] / 4
    memory = told["memory"]
    trained = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert told["model"]["trained"] == trained
    assert memory["adapter"] == memory["gradients"] == 4 * trained
    tensors = 2 * 7 * 2  # each with a float32 `step`
    assert memory["optimizer state"] == 8 * trained + 4 * tensors
    assert memory["total"] == sum(value for name, value in memory.items() if name not in ("loading", "total"))
    assert "never measured" in told["hardware"]["efficiency"]


def test_the_cache_is_counted_where_it_is(capsys, finished_run):
    """After a run every row is known from its encoding, and sampling all rows says the same."""
    recipe, _result = finished_run
    file = recipe.output_dir.parent / "tiny.yaml"
    _, cached = ask(capsys, file, "--hardware", "h100-80g")
    _, sampled = ask(capsys, file, "--hardware", "h100-80g", "--set", "data.cache=false")
    assert cached["rows"].pop("how").startswith("the cache of encoded rows")
    assert sampled["rows"].pop("how").endswith("rows tokenised")
    assert cached["rows"] == sampled["rows"] and cached["memory"] == sampled["memory"]


def test_too_much_is_exit_code_3_with_what_to_change(capsys, file, small):
    whole = ask(capsys, file, "--hardware", "h100-80g")[1]["memory"]["total"]
    beside = whole - HARDWARE["h100-80g"].reserve
    code, told = ask(capsys, file, "--hardware", small(beside - 200_000))
    assert code == 3 and not told["fits"]
    fitting = [one["fits"] for one in told["advice"]]
    assert any(fitting) and fitting == sorted(fitting, reverse=True)
    best = told["advice"][0]
    settings = [word for one in best["set"] for word in ("--set", one)]
    code, again = ask(capsys, file, "--hardware", "small", *settings)
    assert code == 0 and again["memory"]["total"] == best["memory"] and again["time"]["run"] == best["seconds"]


def test_several_changes_together_where_none_is_enough(capsys, file, small):
    alone = ask(capsys, file, "--hardware", small(1000))[1]
    least = min(one["memory"] for one in alone["advice"] if len(one["set"]) == 1)
    code, told = ask(capsys, file, "--hardware", small(least - HARDWARE["h100-80g"].reserve - 1000))
    assert code == 3 and [one["fits"] for one in told["advice"][:-1]] == [False] * (len(told["advice"]) - 1)
    assert told["advice"][-1]["fits"] and len(told["advice"][-1]["set"]) > 1


def test_processes_share_the_batch(capsys, file):
    _, one = ask(capsys, file, "--hardware", "h100-80g")
    _, two = ask(
        capsys, file, "--hardware", "h100-80g", "--processes", 2, "--engine", "fsdp2",
        "--price-per-hour", 2.5,
    )  # fmt: skip
    assert two["layout"]["micro_batch"] * two["layout"]["accumulation"] == 2
    assert two["memory"]["optimizer state"] == one["memory"]["optimizer state"] // 2
    assert two["cost"]["run"] == pytest.approx(2 * 2.5 * two["time"]["run"] / 3600)


def test_people_get_lines(capsys, file):
    assert main(["plan", str(file), "--hardware", "910b-64g"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split("  ")[0]: line for line in lines}
    assert "fits: " in named["memory"] and "optimizer state" in named
    assert "9 steps of 4 sequences = 1 process(es) x 1 x micro-batch of 4" in named["steps"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "ddp"], "--engine: ddp shares a model among processes; give --processes 2 or more"),
        (["--processes", "3"], "train.global_batch_size: 4 sequences / 3 processes = 1.33; use a multiple of 3"),
        (["--set", "model.attn_implementation=eager", "--set", "model.dtype=float33"], "dtype"),
    ],
)
def test_mistakes_are_exit_code_2(capsys, file, words, said):
    assert main(["plan", str(file), "--hardware", "h100-80g", *words]) == 2
    assert said in capsys.readouterr().err


def test_answers_of_unknown_length_are_refused(capsys, file):
    words = ["--set", "stage=grpo", "--set", "grpo.rewards={all_fields: 1.0}", "--set", "grpo.num_generations=2"]
    assert main(["plan", str(file), "--hardware", "h100-80g", *words]) == 2
    assert "plan: stage grpo makes its own answers, whose length nobody knows before" in capsys.readouterr().err


def test_hardware_is_found_by_name_or_at_hand():
    assert find("h100-80g", "auto") is HARDWARE["h100-80g"]
    assert names()[-1] == CPU
    for row in HARDWARE.values():
        assert row.source and row.memory >= 24 * 10**9 and row.flops["bfloat16"] > row.flops["float32"]


def test_numbers_as_people_read_them():
    assert [size(n) for n in (512 << 20, 3 << 19, 5 << 30)] == ["0.50 GiB", "1.5 MiB", "5.00 GiB"]
    assert [span(n) for n in (8.24, 250, 11520)] == ["8.2 s", "4 min 10 s", "3 h 12 min"]


@pytest.mark.slow
def test_a_gguf_file_is_read_once(monkeypatch, capsys, tmp_path):
    """Its tokenizer, what the reader loses of that, and its configuration each ask for the header."""
    import gguf

    class Reader(gguf.GGUFReader):
        made = 0

        def __init__(self, path: str) -> None:
            Reader.made += 1
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(ROOT / "recipes/meteorology/metar_decode.yaml"), "--hardware", "h100-80g"]) == 0
    assert Reader.made == 1 and gguf.GGUFReader is Reader
    assert "134,515,008 parameters" in capsys.readouterr().out
