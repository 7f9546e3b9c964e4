"""`finetune chat`: what it shows is what the run's evaluation got, of both models."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch

from finetune.chat.command import HELP
from finetune.chat.session import chat_folder, open_session
from finetune.cli import main
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from finetune.verify.golden import read_golden
from finetune.verify.wire import ServerError
from tests.conftest import write_tiny_recipe


class Typed(io.StringIO):
    """A pipe with lines, or a terminal."""

    def __init__(self, text: str, terminal: bool = False) -> None:
        super().__init__(text)
        self.isatty = lambda: terminal  # type: ignore[method-assign]


def told(capsys, *words: str) -> list[dict]:
    assert main(["chat", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["answers"]


@pytest.fixture(scope="module")
def folder(tiny_base, tiny_data, tmp_path_factory):
    """A run that taught enough for its answers to differ from the base's."""
    place = tmp_path_factory.mktemp("chat")
    recipe = load_recipe(
        write_tiny_recipe(place, tiny_base, tiny_data), ["train.max_steps=60", "train.learning_rate=0.03", "lora.r=16"]
    )
    run(recipe)
    return recipe.output_dir


@pytest.fixture(scope="module")
def goldens(folder):
    return read_golden(folder / "golden.jsonl")


def test_both_sides_answer_held_out_prompts_as_they_did_in_the_evaluation(folder, goldens, capsys):
    """Of the merged model in the bundle, and of the adapter on its base where no bundle has been made."""
    assert len(goldens) >= 3 and any(one.answer != one.base_answer for one in goldens)
    numbers = [word for number in range(1, 4) for word in ("--sample", str(number))]
    found = told(capsys, str(folder), *numbers)
    wanted = [
        {"sample": i + 1, "where": one.where, "reference": one.reference, "base": one.base_answer, "tuned": one.answer}
        for i, one in enumerate(goldens[:3])
    ]
    assert found == wanted
    assert told(capsys, str(folder / "bundle"), *numbers, "--alone") == [
        {key: value for key, value in one.items() if key != "base"} for one in wanted
    ]


def test_a_run_without_bundle_is_its_adapter_on_its_base(folder, goldens, tmp_path, capsys):
    stopped = tmp_path / "stopped"
    shutil.copytree(folder, stopped, ignore=shutil.ignore_patterns("bundle", "checkpoints"))
    (one,) = told(capsys, str(stopped), "--sample", "2")
    assert (one["base"], one["tuned"]) == (goldens[1].base_answer, goldens[1].answer)
    (stopped / "adapter/initial.safetensors").write_bytes(b"")
    with pytest.raises(RecipeError, match="the base was changed for this adapter"):
        chat_folder(stopped)
    (stopped / "golden.json").unlink()
    with pytest.raises(RecipeError, match="the run has not come to its answers"):
        chat_folder(stopped)


def test_a_token_that_only_the_tuned_model_has(folder, goldens, monkeypatch):
    session = open_session(folder, alone=False, max_new_tokens=2, trust_remote_code=False)
    monkeypatch.setattr(type(session.models["base"]), "vocabulary", 7)
    with pytest.raises(ServerError, match="base: the message has tokens that were added in training"):
        session.ask("3 4 5", "base")


def test_each_side_goes_on_from_its_own_answers(folder, goldens):
    session = open_session(folder, alone=False, max_new_tokens=6, trust_remote_code=False)
    opening = [message for message in goldens[0].messages if message["role"] == "system"]
    assert list(session.opening) == opening
    heard: list[str] = []
    first = session.ask("3 4 5", "tuned", heard.append)
    assert heard and heard[-1].startswith(first.text) and first.tokens <= 6
    session.ask("3 4 5", "base")
    session.ask("6", "tuned")
    turns = [message["content"] for message in session.said["tuned"]]
    assert turns[:3] == ["3 4 5", first.text, "6"] and len(turns) == 4 and len(session.said["base"]) == 2
    alone = session.models["tuned"].ask(
        [*opening, *({"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=False))],
        (), 6,
    )  # fmt: skip
    assert alone.text == turns[3]
    session.begin()
    assert session.ask("3 4 5", "tuned").text == first.text


def test_what_is_piped_in(folder, monkeypatch, capsys):
    lines = (
        "/help",
        "",
        "1 2 3",
        "/nonsense",
        "/sample",
        "/sample 2",
        "/sample 99",
        "/new",
        "/system",
        "4",
        "/quit",
        "5",
    )
    monkeypatch.setattr("sys.stdin", Typed("".join(f"{line}\n" for line in lines)))
    assert main(["chat", str(folder), "--max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert HELP in out and "/nonsense: no such word" in out
    assert "sample 1 of" in out and "sample 2 of" in out and "/sample 99: there are" in out
    assert out.count("base (") == out.count("tuned (") == 4 and "cut at 4" in out and out.count("reference:") == 2


def test_a_terminal_shows_columns(folder, monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr("finetune.chat.screen.Console", lambda **its: Console(force_terminal=True, width=100, **its))
    monkeypatch.setattr("sys.stdin", Typed("", terminal=True))
    lines = iter(["1 2 3"])

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", str(folder), "--max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert "as in training" in out or "greedy" in out
    (heads,) = {line for line in out.splitlines() if "base" in line and "tuned" in line and "┃" in line}
    assert heads.index("base") < heads.index("tuned")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "neither a bundle (MANIFEST.json) nor a run that has trained (adapter/)"),
        (["RUN", "--sample", "99"], "/sample 99: there are"),
        (["RUN", "--ask", "7 " * 3000], "tokens and an answer of up to"),
        (["BUNDLE-WITHOUT-BASE"], "--alone asks the tuned model only"),
    ],
)
def test_mistakes_are_told(words, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if words[0] == "BUNDLE-WITHOUT-BASE":
        shutil.copytree(folder / "bundle", tmp_path / "copy")
        manifest = json.loads((tmp_path / "copy/MANIFEST.json").read_text())
        manifest["base"] |= {"name_or_path": str(tmp_path / "gone"), "commit": None}
        (tmp_path / "copy/MANIFEST.json").write_text(json.dumps(manifest))
        shutil.rmtree(tmp_path / "copy/adapter")
    place = {"RUN": str(folder), "BUNDLE-WITHOUT-BASE": "copy"}.get(words[0], words[0])
    assert main(["chat", place, *words[1:]]) == 2
    assert said in capsys.readouterr().err


def test_it_computes_in_the_dtype_that_auto_means(folder):
    from finetune.device import first_available
    from finetune.device.start import dtype_of

    session = open_session(folder, alone=True, max_new_tokens=2, trust_remote_code=False)
    assert next(session.models["tuned"]._model.parameters()).dtype == getattr(
        torch, dtype_of("auto", first_available())
    )
