"""Hub datasets: the `datasets` library says which files belong to a split; our own readers read them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from finetune.data.columnar import choose_split, saved_dataset
from finetune.data.findings import DataFile, Findings
from finetune.errors import DataError, first_line

READABLE = ("json", "csv", "parquet", "arrow", "text")  # builders of `datasets` whose files our readers know
_REMOTE = re.compile(r"hf://datasets/(?P<name>[^@]+)@(?P<commit>[^/]+)/(?P<path>.+)")


def hub_files(hub: str, subset: str | None, split: str | None, findings: Findings) -> list[DataFile]:
    """The files of one split of `name@revision`, or of a local copy of a hub dataset (a folder).

    Files of the hub are fetched into its usual cache; nothing is converted, so what `datasets` would make of the rows
    (dates guessed from text, broken lines repaired) can't happen.

    Raises:
        DataError: no such dataset, subset or split; a kind of file that isn't read here.
    """
    folder = Path(hub)
    if folder.is_dir():
        if (saved := saved_dataset(folder, split)) is not None:
            return [DataFile(file, str(file), file.name) for file in saved]
        name, revision = hub, None
    else:
        name, _, given = hub.partition("@")
        revision = given or None
    try:
        from datasets import load_dataset_builder
    except ImportError:
        raise DataError(f"{hub}: reading a hub dataset needs datasets; pip install 'finetune[hub]'") from None
    try:
        builder = load_dataset_builder(name, subset, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{hub}: {' '.join(str(error).split('Example of usage')[0].split())}") from None
    data_files = builder.config.data_files
    kind = type(builder).__module__.rpartition(".")[2]
    if not data_files or kind not in READABLE:
        raise DataError(f"{hub}: is kept as {kind}; what can be read is {', '.join(READABLE)}")
    chosen = choose_split(hub, split, [str(key) for key in data_files])
    files = [_file(hub, url) for url in data_files[chosen]]
    findings.note(f"{hub}: split {chosen}, {len(files)} files" + (_commit(name, files) if revision is None else ""))
    return files


def _file(hub: str, url: str) -> DataFile:
    remote = _REMOTE.fullmatch(url)
    if remote is None:
        return DataFile(Path(url), url, Path(url).name)
    from huggingface_hub import hf_hub_download

    name, commit, path = remote["name"], remote["commit"], remote["path"]
    try:
        local = hf_hub_download(name, path, repo_type="dataset", revision=commit)
    except (OSError, ValueError) as error:
        raise DataError(f"{hub}: {path}: {first_line(error)}") from None
    return DataFile(Path(local), f"{name}@{commit}/{path}", PurePosixPath(path).name)


def _commit(name: str, files: list[DataFile]) -> str:
    """Which commit an unpinned name came to, so that it can be written into the recipe."""
    commit = files[0].label.removeprefix(f"{name}@").partition("/")[0] if files[0].label.startswith(f"{name}@") else ""
    return f"; no revision given, this is `hub: {name}@{commit}`" if commit else ""
