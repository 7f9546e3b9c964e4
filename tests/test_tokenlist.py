"""`model.add_tokens` and `lora.trainable_token_indices` as a recipe gives them: everything wrong is known at check."""

from __future__ import annotations

import pytest
import yaml

from finetune.basefit import serving_notes
from finetune.cli import main
from finetune.errors import RecipeError
from finetune.recipe import resolved
from finetune.recipefile import load_recipe
from finetune.tokenlist import index_problems, read_words


def refused(make, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        make(*overrides)
    return str(caught.value)


def test_a_file_and_a_list_are_the_same_recipe(tiny_recipe, tmp_path):
    """The file's path starts from the recipe's folder; the resolved recipe says the words themselves."""
    tiny_recipe()
    (tmp_path / "words.txt").write_bytes("\ufeffCAVOK\r\n QNH\r\n<RWY>\r\n雷暴\r\n".encode())
    file = tmp_path / "tiny.yaml"
    content = yaml.safe_load(file.read_text())
    content["model"]["add_tokens"] = "words.txt"
    file.write_text(yaml.safe_dump(content))
    recipe = load_recipe(file)
    assert recipe.model.add_tokens == ("CAVOK", " QNH", "<RWY>", "雷暴")
    assert recipe == tiny_recipe("model.add_tokens=[CAVOK, ' QNH', <RWY>, 雷暴]")
    assert resolved(recipe)["model"]["add_tokens"] == ["CAVOK", " QNH", "<RWY>", "雷暴"]


def test_what_is_wrong_in_a_file_is_told_by_its_line(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("CAVOK\n\nQNH \nCAVOK\n  NSC\nNOSIG\tX\nTEMPO\n", encoding="utf-8")
    words, problems = read_words(file)
    assert words == ["CAVOK", "TEMPO"]
    assert problems == [
        f"{file}:2: a blank line",
        f"{file}:3: 'QNH ': white space at an end; only one space before a token may be part of it",
        f"{file}:4: 'CAVOK' is there already, in line 1",
        f"{file}:5: '  NSC': white space at an end; only one space before a token may be part of it",
        f"{file}:6: 'NOSIG\\tX': holds a line break, a control or a private-use character",
    ]
    file.write_bytes(b"CAVOK\nZ\xfcrich\n")
    assert read_words(file)[1] == [f"{file}: not UTF-8 (byte 7)"]
    file.write_text("")
    assert read_words(file)[1] == [f"{file}: no tokens in it"]


def test_all_problems_at_once_with_the_recipe_s_line(tiny_recipe, tmp_path):
    tiny_recipe()
    (tmp_path / "words.txt").write_text("CAVOK\n\n")
    file = tmp_path / "tiny.yaml"
    file.write_text(
        file.read_text().replace("model:\n", "model:\n  add_tokens: words.txt\n").replace("seed: 3", "sed: 3")
    )
    said = refused(lambda: load_recipe(file))
    assert f"{(tmp_path / 'words.txt')}:2: a blank line" in said and "sed: unknown key; did you mean 'seed'?" in said
    file.write_text(file.read_text().replace("words.txt", "wrds.txt").replace("sed: 3", "seed: 3"))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "add_tokens" in text)
    said = refused(lambda: load_recipe(file))
    assert said.startswith(
        f"{file}:{line}: model.add_tokens: no such file: {tmp_path / 'wrds.txt'}; did you mean 'words.txt'?"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("['']", "a token is needed, not white space alone"),
        ("['  ']", "a token is needed, not white space alone"),
        ("[A, B, A]", "'A' is listed twice"),
        ('["A\\nB"]', "holds a line break"),
        ("[8000]", "text is needed; got 8000"),
        ("3", "model.add_tokens"),
        ("CAVOK", "no such file"),
    ],
)
def test_words_that_can_t_be_tokens(tiny_recipe, given, said):
    message = refused(tiny_recipe, f"model.add_tokens={given}")
    assert message.startswith("--set: model.add_tokens") and said in message


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("lora.trainable_token_indices=[3]", "lora.trainable_token_indices itself, which is given too"),
        ("lora.modules_to_save=[embed_tokens]", "lora.modules_to_save has embed_tokens too"),
        ("lora.modules_to_save=[lm_head, norm]", "lora.modules_to_save has lm_head too"),
        ("lora.target_modules=[q_proj, model.embed_tokens]", "lora.target_modules has model.embed_tokens too"),
    ],
)
def test_rows_are_trained_in_one_way(tiny_recipe, also, said):
    assert said in refused(tiny_recipe, "model.add_tokens=[CAVOK]", also)
    tiny_recipe(also)  # alone it is right


def test_indices_of_the_user():
    """By list and by layer; beyond the vocabulary only where that is known."""
    key = "lora.trainable_token_indices"
    assert index_problems(None, 10) == index_problems([0, 9], 10) == index_problems({"wte": [1]}, 10) == []
    assert index_problems([10], None) == []
    assert index_problems([4, 10, 12], 10) == [
        f"{key}: 10, 12: beyond the vocabulary of 10 rows (0 to 9); for tokens that are not there yet use model.add_tokens"
    ]
    assert index_problems({"wte": [1], "lm_head": [11]}, 10)[0].startswith(f"{key}.lm_head: 11: beyond")


def test_known_at_check(tiny_recipe, tmp_path, capsys):
    """Ids beyond the base's 258 rows, an initialisation that changes the base, an engine that can't have the adapter."""
    tiny_recipe()
    file = str(tmp_path / "tiny.yaml")
    assert main(["check", file, "--set", "lora.trainable_token_indices=[258]"]) == 2
    assert "258: beyond the vocabulary of 258 rows (0 to 257)" in capsys.readouterr().err
    for tokens, said in (
        ("model.add_tokens=[CAVOK]", "model.add_tokens: not with lora.init_lora_weights 'pissa'"),
        ("lora.trainable_token_indices=[3]", "lora.trainable_token_indices: not with init_lora_weights: pissa"),
    ):
        assert main(["check", file, "--set", tokens]) == 0
        assert main(["check", file, "--set", tokens, "--set", "lora.init_lora_weights=pissa"]) == 2
        assert said in capsys.readouterr().err
        with pytest.raises(RecipeError, match=r"vllm.*set form: merged"):
            serving_notes(tiny_recipe(tokens, "export.targets=[{engine: vllm, form: adapter}]"))
        serving_notes(tiny_recipe(tokens, "export.targets=[{engine: vllm, form: merged}]"))
