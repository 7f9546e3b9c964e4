"""verify against a running server: right in every engine's shape, and broken in each way, found by the right check."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from finetune.cli import main
from finetune.errors import GateError, RecipeError
from finetune.verify.command import verify_command
from finetune.verify.golden import FACTS, SAMPLES, read_golden, write_golden
from tests.conftest import CHATML, byte_tokenizer, tiny_llama
from tests.verify.serving import Engine, Habits, noise, serving

SYSTEM = "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + CHATML


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """Another base of the same shape."""
    folder = tmp_path_factory.mktemp("stranger")
    tokenizer = byte_tokenizer()
    tiny_llama(len(tokenizer), seed=7).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(url: str, bundle: Path, *more: str) -> list[str]:
    return ["verify", url, "--bundle", str(bundle), *more]


def parsed(arguments: list[str]) -> argparse.Namespace:
    from finetune.commands import command_parser

    return command_parser().parse_args(arguments)


def found(url: str, bundle: Path, tmp_path: Path, *more: str) -> tuple[dict[str, str], str]:
    """Status of each check from the JSON, and the lines for people."""
    file = tmp_path / "report.json"
    try:
        lines = verify_command(parsed(options(url, bundle, "--json", str(file), *more)))
        passed = True
    except GateError as error:
        lines, passed = str(error).split("\n"), False
    report = json.loads(file.read_text())
    assert report["passed"] is passed
    return {check["name"]: check["status"] for check in report["checks"]}, "\n".join(lines)


def failed(statuses: dict[str, str]) -> set[str]:
    return {name for name, status in statuses.items() if status == "fail"}


@pytest.mark.parametrize(
    ("shows", "takes_ids", "streams", "unknown"),
    [
        ("vllm", True, True, set()),
        ("llama.cpp", True, True, set()),
        ("counts", False, True, {"tokenizer"}),
        ("nothing", False, False, {"tokenizer"}),
    ],
)
def test_the_evaluated_model_passes(made, engine, tmp_path, shows, takes_ids, streams, unknown):
    """The model itself, in the shape of each engine: every check passes but those that cannot see."""
    with serving(engine, Habits({"tuned": made.tuned}, shows, takes_ids, streams)) as url:
        statuses, text = found(url, made.tuned, tmp_path, "--concurrency", "3", "--exact", "1")
    assert {name for name, status in statuses.items() if status != "pass"} == unknown, text
    assert "8 of 8 to the letter, partings 0.000 a token" in text
    assert text.endswith("verified: this is the model that was evaluated")


def backwards():
    """The byte tokenizer with its ids in the other order: the same number of tokens for every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = CHATML
    return fast


BREAKS = {
    "another template": ({"template": SYSTEM}, {"template", "answers"}, "have other token ids"),
    "another template, llama.cpp": (
        {"template": SYSTEM, "shows": "llama.cpp"}, {"template", "answers"}, "from token 1 on [",
    ),
    "another template, seen by counts": (
        {"template": SYSTEM, "shows": "counts", "takes_ids": False}, {"template", "answers"}, "instead of",
    ),
    "another template, seen by answers to ids": (
        {"template": SYSTEM, "shows": "nothing"}, {"template", "answers"}, "answered right as token ids",
    ),
    "no generation prompt": (
        {"template": CHATML.replace("add_generation_prompt", "false")}, {"template", "answers"}, "the end instead of",
    ),
    "another tokenizer": ({"tokenizer": backwards}, {"tokenizer", "answers"}, "texts have other token ids"),
    "no stop": ({"stops": ()}, {"stop", "answers"}, "must stop at <|im_end|> (257)"),
    "no stop, nothing shown": ({"stops": (), "shows": "nothing", "takes_ids": False}, {"stop", "answers"}, "go on after"),
    "stop token shown": ({"skip_special": False}, {"stop", "answers"}, "'<|im_end|>' follows (stop)"),
    "a stop string too many": ({"cut_at": "\n"}, {"stop", "answers"}, "stop early"),
    "cut": ({"cap": 6}, {"length", "answers"}, "after 6 of 1"),
    "perturbed weights": ({"change": noise}, {"answers"}, "partings"),
    "sampling": ({"temperature": 2.0}, {"sampling", "answers"}, "had two answers"),
    "server errors": ({"status": 500}, {"replies"}, "HTTP 500: CUDA out of memory"),
    "slow": ({"delay": 0.1}, {"latency"}, "first token later than 0.05 s"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_is_named(made, engine, tmp_path, name):
    """One thing wrong: its own check fails with what to do, the answers where they suffer, and nothing else."""
    habits, expected, words = BREAKS[name]
    habits = {key: value() if key == "tokenizer" else value for key, value in habits.items()}
    torch.manual_seed(0)
    more = ("--first-token", "0.05") if name == "slow" else ()
    # Which noise parts an answer depends on the weights, which another CPU trains a little otherwise: the first that does.
    tries = (
        [habits | {"change": partial(noise, seed=seed)} for seed in range(5, 25)] if "change" in habits else [habits]
    )
    for habits in tries:
        with serving(engine, Habits({"tuned": made.tuned}, **habits)) as url:
            statuses, text = found(url, made.tuned, tmp_path, *more)
        if failed(statuses):
            break
    assert failed(statuses) == expected, text
    assert words in text
    assert text.count("do: ") == len(expected)
    assert text.endswith(f"verify stopped: {', '.join(n for n in statuses if n in expected)}")


@pytest.mark.parametrize("shows", ["vllm", "nothing"])
def test_an_adapter_that_is_off(made, engine, tmp_path, shows):
    with serving(engine, Habits({"tuned": made.base}, shows)) as url:
        statuses, text = found(url, made.tuned, tmp_path)
    assert failed(statuses) == {"effect", "answers"}, text
    assert "8 of 8 prompts that base and tuned model answer differently are answered like the base" in text


def test_the_base_s_name_is_asked(made, engine, tmp_path):
    """vLLM with --lora-modules lists both; without frozen answers of the base, the base there is asked."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / FACTS).write_text((made.tuned / FACTS).read_text())
    write_golden(bundle / SAMPLES, [replace(golden, base_answer=None) for golden in made.goldens])
    both = {"base": made.base, "tuned": made.tuned, "off": made.base}
    with serving(engine, Habits(both, parents={"tuned": "base", "off": "base"})) as url:
        statuses, text = found(url, bundle, tmp_path, "--model", "off")
        assert failed(statuses) == {"effect", "answers"}, text
        assert "4 of 4 prompts" in text
        right, _ = found(url, bundle, tmp_path, "--model", "tuned")
        assert failed(right) == set()
        with pytest.raises(RecipeError, match=r"--model: .*/v1 serves base, tuned, off; name one of them"):
            found(url, bundle, tmp_path)


@pytest.mark.parametrize("shows", ["vllm", "counts"])
def test_another_base(made, engine, stranger, tmp_path, shows):
    with serving(engine, Habits({"tuned": stranger}, shows)) as url:
        statuses, text = found(url, made.tuned, tmp_path)
    assert failed(statuses) == {"model", "answers"}, text
    assert "another model answers: 0 of 8 golden answers" in text
    assert "its own base (tiny/base;" in text


def test_a_wrong_template_does_not_hide_wrong_weights(made, engine, stranger, tmp_path):
    """Two things wrong: with answers to token ids both are named; the adapter alone is named too."""
    with serving(engine, Habits({"tuned": stranger}, template=SYSTEM)) as url:
        assert failed(found(url, made.tuned, tmp_path)[0]) == {"template", "model", "answers"}
    with serving(engine, Habits({"tuned": made.base}, template=SYSTEM)) as url:
        assert failed(found(url, made.tuned, tmp_path)[0]) == {"template", "effect", "answers"}
    with serving(engine, Habits({"tuned": stranger}, "counts", takes_ids=False, template=SYSTEM)) as url:
        statuses, _ = found(url, made.tuned, tmp_path)
    assert failed(statuses) == {"template", "answers"}
    assert statuses["model"] == statuses["effect"] == "unknown"


def test_batches_that_change_answers(made, engine, tmp_path):
    """Alone right, together wrong: only --concurrency shows it."""
    with serving(engine, Habits({"tuned": made.tuned}, together=made.base)) as url:
        assert failed(found(url, made.tuned, tmp_path)[0]) == set()
        statuses, text = found(url, made.tuned, tmp_path, "--concurrency", "4")
    assert failed(statuses) == {"load"}
    assert "answers change when asked together" in text


def test_quantised_weights_pass_with_limits_of_their_own(made, engine, tmp_path):
    with serving(engine, Habits({"tuned": made.tuned}, change=noise)) as url:
        assert failed(found(url, made.tuned, tmp_path, "--tolerance", "1", "--divergence", "0.2")[0]) == set()
        statuses, text = found(url, made.tuned, tmp_path, "--tolerance", "1", "--divergence", "0.2", "--exact", "1")
    assert failed(statuses) == {"answers"}
    assert "to the letter, at least 1 wanted" in text


def test_exit_codes(made, engine, tmp_path, capsys):
    """0: verified, on stdout; 3: a check failed, the report on stderr; 2: the question could not be asked."""
    with serving(engine, Habits({"tuned": made.tuned})) as url:
        assert main(options(url, made.tuned)) == 0
        assert "verified: this is the model that was evaluated" in capsys.readouterr().out
        assert main(options(url, made.tuned, "--model", "tunde")) == 2
        assert "'tunde' is not served" in capsys.readouterr().err
    assert main(options(url, made.tuned)) == 2
    assert "no server answers there" in capsys.readouterr().err
    with serving(engine, Habits({"tuned": made.tuned}, stops=())) as url:
        assert main(options(url, made.tuned)) == 3
        assert "verify stopped: stop, answers" in capsys.readouterr().err


def test_what_can_not_be_asked_says_why(made, engine, tmp_path):
    """Wrong arguments, all at once; keys; names; addresses that are no such server."""

    def message(*arguments: str) -> str:
        with pytest.raises(RecipeError) as caught:
            verify_command(parsed(["verify", *arguments]))
        return str(caught.value)

    bundle = str(made.tuned)
    assert message("http://x/v1").startswith("--bundle: needed with a URL")
    assert message("localhost:8000").endswith("no such folder: localhost:8000; a URL begins with http:// or https://")
    assert message("http://x", "--bundle", bundle, "--tolerance", "2", "--timeout", "0", "--exact", "nan").split(
        "\n"
    ) == [
        "--tolerance: a number from 0 to 1 is needed, got 2",
        "--exact: a number from 0 to 1 is needed, got nan",
        "--timeout: a number above 0 is needed, got 0",
    ]
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "none").write_text("\n")
    assert "one line with the key is needed" in message(
        "http://x", "--bundle", bundle, "--api-key-file", str(tmp_path / "none")
    )
    with serving(engine, Habits({"tuned": made.tuned})) as url:
        assert "no list of models; is it an OpenAI-compatible server?" in message(f"{url}/nothing", "--bundle", bundle)
    with serving(engine, Habits({"tuned": made.tuned}, key="secret")) as url:
        assert message(url, "--bundle", bundle).endswith("HTTP 401: it wants a key; give --api-key-file FILE")
        assert verify_command(
            parsed(options(url, made.tuned, "--api-key-file", str(tmp_path / "key"), "--samples", "1"))
        )
        said = message(url, "--bundle", bundle, "--model", "tunde", "--api-key-file", str(tmp_path / "key"))
        assert said.endswith("(HTTP 404: The model `tunde` does not exist.); did you mean 'tuned'?")
    (tmp_path / SAMPLES).write_text("")
    assert message(str(tmp_path)).startswith(f"{tmp_path / FACTS}: can't be read: No such file")


def test_a_server_that_does_not_answer_in_time(made, engine, tmp_path):
    with serving(engine, Habits({"tuned": made.tuned}, delay=0.4)) as url:
        statuses, text = found(url, made.tuned, tmp_path, "--timeout", "0.1", "--samples", "2")
    assert failed(statuses) == {"replies"}
    assert "2 of 2 golden samples got no answer, rows.jsonl:2 first: no answer in 0.1 s" in text


def test_the_report_holds_every_sample(made, engine, tmp_path):
    with serving(engine, Habits({"tuned": made.base})) as url:
        found(url, made.tuned, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    goldens = read_golden(made.tuned / SAMPLES)
    assert [(s["where"], s["golden"], s["served"]) for s in report["samples"]] == [
        (golden.where, golden.answer, golden.base_answer) for golden in goldens
    ]
    assert report["latency"]["tokens_per_second"] > 0
