"""The peer's file: YAML, JSON, or a command line in a text file."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import RecipeError, did_you_mean
from finetune.migrate.commandline import looks_like_a_command, read_command
from finetune.migrate.draft import Given
from finetune.yamlfile import read_yaml


def read_given(file: Path) -> Given:
    """What the file says, each key with its line.

    Raises:
        RecipeError: no such file, not UTF-8, neither a mapping nor a command; everything that is wrong with it.
    """
    text = _text(file)
    if not text.strip():
        raise RecipeError(f"{file}: is empty")
    if file.suffix.lower() == ".py":
        raise RecipeError(
            f"{file}: is Python code, which is not run here; write the arguments of its SFTConfig, DPOConfig, ... and of its "
            "LoraConfig (as lora_r, lora_alpha, ...) into a YAML file, one a line"
        )
    if file.suffix.lower() not in (".yaml", ".yml", ".json") and looks_like_a_command(text):
        return read_command(file, text)
    values, lines = read_yaml(file)
    return Given(file, values, {key: f"{file}:{lines[(key,)]}" for key in values})


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        near = did_you_mean(file.name, names)
        raise RecipeError(f"{file}: no such file{near if 'did you mean' in near else ''}") from None
    except IsADirectoryError:
        raise RecipeError(f"{file}: is a directory; one configuration is needed") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{file}: is not UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"{file}: can't be read: {error.strerror or error}") from None
