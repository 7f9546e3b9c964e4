"""Every file that recipes need, with its size, its hash and its place in the folder that is carried."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.carry.item import Item, item, items_below
from finetune.carry.needs import Needs
from finetune.carry.packages import Package, packages_of
from finetune.errors import RecipeError, first_line
from finetune.shipped import shipped_folder

HUB = "hub"  # of the carried folder: what HF_HUB_CACHE is set to over there
FILES, ROWS = "files", "rows"


@dataclass(frozen=True)
class Model:
    """A model by the key that names it. `commit`: of a hub id. `package`: that has it and its `items`."""

    key: str
    name: str
    commit: str | None
    package: str | None
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Carried:
    """All of it. `files`: recipes, templates, rows. `rows`: files of hub data sets, by `name@revision`."""

    packages: tuple[Package, ...]
    models: tuple[Model, ...]
    files: tuple[tuple[str, Item], ...]
    rows: dict[str, tuple[Item, ...]]
    notes: tuple[str, ...]

    def items(self) -> list[Item]:
        """Every file, once a place."""
        found = [one for model in self.models for one in model.items] + [one for _key, one in self.files]
        found += [one for items in self.rows.values() for one in items]
        return list({(one.to, one.path): one for one in found}.values())


def collect(needs: Needs, extras: Iterable[str]) -> Carried:
    """What there is of the needs, read and hashed.

    Raises:
        RecipeError: packages that are not installed, models that are neither here nor to be had.
    """
    folders = [Path(name) for name, _revision in needs.models if Path(name).is_dir()] + list(needs.folders)
    own = [path for path in (*needs.files, *folders) if not _shipped(path)]
    above = Path(os.path.commonpath([path.resolve().parent for path in own])) if own else Path("/")
    models = tuple(
        _model(key, name, revision, needs.gguf.get(name), above) for (name, revision), key in needs.models.items()
    )
    imported = [model.package for model in models if model.package]
    files = [(key, item(path, _place(path, above))) for path, key in needs.files.items()]
    files += [
        (key, one) for path, key in needs.folders.items() for one in items_below(path, _place(path, above) or FILES)
    ]
    rows = {
        name: tuple(item(path, f"{ROWS}/{_flat(name)}/{below}") for path, below in _with_card(paths))
        for name, paths in needs.rows.items()
    }
    return Carried(
        tuple(packages_of({*needs.extras, *extras}, imported)), models, tuple(files), rows, tuple(needs.notes)
    )


def _shipped(path: Path) -> bool:
    """Whether finetune's own wheel has it."""
    own = shipped_folder()
    return any(path.resolve().is_relative_to(own / name) for name in ("recipes", "data_templates"))


def _place(path: Path, above: Path) -> str | None:
    """Where it goes: its path below the folder that holds all of them, so that relative paths in recipes still lead there."""
    return None if _shipped(path) else f"{FILES}/{path.resolve().relative_to(above).as_posix()}"


def _flat(hub: str) -> str:
    return hub.partition("@")[0].replace("/", "--")


def _with_card(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Files of a data set in the hub's cache with their names in the data set; its card, too, which names its subsets."""
    found: dict[Path, str] = {}
    for path in paths:
        inside = next((above for above in path.parents if above.parent.name == "snapshots"), path.parent)
        found[path] = path.relative_to(inside).as_posix()
        if (card := inside / "README.md").is_file():
            found[card] = card.name
    return list(found.items())


def _model(key: str, name: str, revision: str | None, gguf: str | None, above: Path) -> Model:
    if name.startswith("pkg:"):
        package = name.removeprefix("pkg:")
        return Model(key, name, None, package, tuple(item(file, None) for file in _files_of_package(key, package)))
    if Path(name).is_dir():
        return Model(key, name, None, None, tuple(items_below(Path(name), _place(Path(name), above) or FILES)))
    commit, items = _from_hub(key, name, revision, gguf)
    return Model(key, name, commit, None, tuple(items))


def _files_of_package(key: str, package: str) -> list[Path]:
    """What an installed package holds beside Python."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"{key}: no installed package {package!r}; pip install it")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.suffix.startswith(".py")]


def _from_hub(key: str, name: str, revision: str | None, gguf: str | None) -> tuple[str, Sequence[Item]]:
    """The files of a hub id in the hub's cache, fetched if need be, each at its place in a cache of the same layout.

    Other forms of the weights are left out, but for the GGUF file that is asked for.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    from finetune.model.load import NOT_THE_MODEL

    try:
        snapshot = Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_THE_MODEL))
        if gguf:
            hf_hub_download(name, gguf, revision=snapshot.name)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{key}: {name!r} is neither a folder nor to be had: {first_line(error)}") from None
    commit, repository = snapshot.name, snapshot.parents[1]
    place = f"{HUB}/{repository.name}"
    items = [
        one for one in items_below(snapshot, f"{place}/snapshots/{commit}")
        if (below := one.path.relative_to(snapshot).as_posix()) == gguf
        or not any(fnmatch.fnmatch(below, other) for other in NOT_THE_MODEL)
    ]  # fmt: skip
    refs = [file for file in (repository / "refs").rglob("*") if file.is_file() and file.read_text().strip() == commit]
    return commit, [*items, *(item(file, f"{place}/refs/{file.relative_to(repository / 'refs')}") for file in refs)]
