"""What starting costs: no library that a command has no use for, and rows that were gone through are not gone through again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import write_tiny_data, write_tiny_recipe

HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "pyarrow",
    "rich",
    "gguf",
)


def check(recipe: Path, *more: str) -> tuple[int, list[str], list[str]]:
    """Exit code, output and the heavy libraries that a process of its own has imported."""
    code = (
        f"import sys; from finetune.cli import main; code = main({['check', str(recipe), *more]!r}); "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def tiny(folder: Path) -> Path:
    """A recipe on a base of which only the configuration is there."""
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return write_tiny_recipe(folder, folder / "base", write_tiny_data(folder))


def test_check_imports_no_heavy_library_and_says_the_same_again(tmp_path):
    """The second time the rows come out of what the first kept; a row that is wrong then is found as ever."""
    recipe = tiny(tmp_path)
    first = check(recipe)
    assert first[0] == 0 and first[2] == [""]
    (entry,) = (tmp_path / ".prepared").iterdir()
    assert sorted(file.name for file in entry.iterdir()) == ["held_out.jsonl", "index.json"]
    assert check(recipe) == first
    with (tmp_path / "larger.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"a": 10, "b": 1, "group": "x"}\n')
    code, _, said = check(recipe)
    assert code == 2 and said[0].startswith(f"{tmp_path / 'larger.jsonl'}:41: a: ")


def test_without_the_cache_nothing_is_kept(tmp_path):
    assert check(tiny(tmp_path), "--set", "data.cache=false")[0] == 0
    assert not (tmp_path / ".prepared").exists()
