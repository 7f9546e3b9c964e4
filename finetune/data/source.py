"""Sources to rows. A row keeps the file and line it came from, so that every later complaint can name them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from finetune.data.columnar import read_arrow, read_parquet, saved_dataset
from finetune.data.compressed import plain_suffix
from finetune.data.encoding import encoding_of, lines, whole_text
from finetune.data.findings import DataFile, Findings
from finetune.data.hub import hub_files
from finetune.data.rows import Row
from finetune.data.strictjson import MalformedError, read_json, read_jsonl, strict_json
from finetune.data.tables import read_csv, read_excel
from finetune.errors import DataError, did_you_mean
from finetune.recipe_data import SourceSection

ENDINGS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".xlsx": "excel", ".xlsm": "excel",
    ".txt": "text", ".md": "text", ".markdown": "text",
}  # fmt: skip
BINARY = ("parquet", "arrow", "excel")
TABLES = ("csv", "tsv", "excel")


def read_source(source: SourceSection, notes: list[str] | None = None) -> list[Row]:
    """All rows of one source, file by file in the order of their names.

    Args:
        source: its section of the recipe; `path` is absolute, may hold `*`, `?`, `[...]`, `**`, or name a folder.
        notes: gets what the user should know: an encoding detected, columns renamed, the files of a folder.

    Raises:
        DataError: everything malformed as `file:line:column: reason`, the first 50 word for word; an empty file; a
            path that matches nothing.
    """
    return list(stream_source(source, notes))


def stream_source(source: SourceSection, notes: list[str] | None = None) -> Iterator[Row]:
    """The same rows one by one. JSON Lines, CSV, TSV, Parquet, Arrow and Excel are read in flat memory.

    Raises:
        DataError: when the source has been read to its end: all its problems. MalformedError rows are never yielded.
    """
    findings = Findings()
    yield from rows_of(source, open_source(source, findings), findings)
    if notes is not None:
        notes += findings.notes
    findings.stop_if_any()


def open_source(source: SourceSection, findings: Findings) -> dict[DataFile, str]:
    """The files of a source and the kind of each, in the order they are read; none of them where that is a problem."""
    try:
        files = source_files(source, findings)
        kinds = _kinds(files, source)
        _refuse_mixed_kinds(source, Counter(kinds.values()))
        _refuse_idle_keys(source, set(kinds.values()))
    except DataError as error:
        findings.problems(error)
        return {}
    return kinds


def rows_of(source: SourceSection, files: dict[DataFile, str], findings: Findings) -> Iterator[Row]:
    """The rows of the files of `open_source`; what is wrong goes to `findings`."""
    for file, kind in files.items():
        count, empty, before = 0, 0, findings.count
        try:
            for row in _read(file, kind, source, findings):
                if source.explode is not None and row.values.get(source.explode) == []:
                    empty += 1
                for one in [row] if source.explode is None else _exploded(row, source.explode, findings):
                    count += 1
                    yield one
        except OSError as error:
            findings.problem(f"{file.label}: can't be read: {error.strerror or error}")
        if empty:
            findings.note(f"{file.label}: explode: {empty:,} rows whose {source.explode} is empty give none")
        if count == 0 and findings.count == before:
            findings.problem(f"{file.label}: holds no rows")


def _exploded(row: Row, column: str, findings: Findings) -> Iterator[Row]:
    """A row for each item of a column's list, as pandas' `explode` makes them, but none of an empty list."""
    items = row.values.get(column)
    if column not in row.values:
        findings.problem(f"{row.where}: explode: no column {column}{did_you_mean(column, map(str, row.values))}")
    elif not isinstance(items, list):
        findings.problem(f"{row.where}: explode: {column} is no list: {str(items)[:60]!r}")
    else:
        yield from (Row(row.values | {column: item}, row.file, row.line) for item in items)


def source_files(source: SourceSection, findings: Findings) -> list[DataFile]:
    """The files of a source, sorted by name: one file, the files of a folder or glob, or of a hub dataset.

    Raises:
        DataError: nothing there; a folder of several kinds of files.
    """
    if source.hub is not None:
        return hub_files(source.hub, source.subset, source.split, findings)
    path = Path(str(source.path))
    if path.is_file():
        return [DataFile(path, str(path), path.name)]
    if path.is_dir():
        if (saved := saved_dataset(path, source.split)) is not None:
            return [DataFile(file, str(file), file.name) for file in saved]
        return _folder(path, sorted(path.rglob("*")), source, findings)
    if glob.has_magic(str(path)):
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - as written
        files = [DataFile(file, str(file), str(file.relative_to(fixed))) for file in found if file.is_file()]
        if not files:
            raise DataError(f"{path}: matches no file")
        findings.note(f"{path}: {len(files)} files")
        return files
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{path}: no such file or folder{did_you_mean(path.name, near) if near else ''}")


def _folder(folder: Path, entries: list[Path], source: SourceSection, findings: Findings) -> list[DataFile]:
    """The files whose ending is known, of the declared kind where there is one; what is left out is said."""
    seen = [entry for entry in entries if entry.is_file() and not _hidden(entry.relative_to(folder))]
    kinds = {entry: ENDINGS.get(plain_suffix(entry)) for entry in seen}
    files = [entry for entry, kind in kinds.items() if kind is not None and source.kind in ("auto", kind)]
    if not files:
        what = "no file of a known kind" if source.kind == "auto" else f"no file with an ending of {source.kind}"
        raise DataError(f"{folder}: {what}; a glob such as {folder / '*.dat'} with `kind:` takes any ending")
    others = Counter(entry.suffix or entry.name for entry in seen if entry not in set(files))
    left = f"; left out: {', '.join(f'{count} {ending}' for ending, count in sorted(others.items()))}" if others else ""
    findings.note(f"{folder}: {len(files)} files{left}")
    return [DataFile(file, str(file), str(file.relative_to(folder))) for file in files]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kinds(files: list[DataFile], source: SourceSection) -> dict[DataFile, str]:
    """The declared kind, or the one each file's ending stands for."""
    if source.kind != "auto":
        return dict.fromkeys(files, source.kind)
    problems = [
        f"{file.label}: can't tell the kind of {file.path.suffix or 'a file without ending'}; "
        f"say `kind:`, or use one of {', '.join(ENDINGS)}"
        for file in files
        if plain_suffix(file.path) not in ENDINGS
    ]
    if problems:
        raise DataError(problems)
    return {file: ENDINGS[plain_suffix(file.path)] for file in files}


def _refuse_mixed_kinds(source: SourceSection, kinds: Counter[str]) -> None:
    """A README beside a table would become a row of its own."""
    if len(kinds) > 1 and set(kinds) not in ({"json", "jsonl"}, {"csv", "tsv"}):
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(
            f"{source.path or source.hub}: files of several kinds ({counted}); say `kind:`, or use a glob such as *.csv"
        )


def _refuse_idle_keys(source: SourceSection, kinds: set[str]) -> None:
    """A key that nothing reads is a mistake."""
    where = source.path or source.hub
    saved = source.path is not None and Path(source.path).is_dir() and kinds == {"arrow"}
    idle = [
        (source.split, "split", "a hub dataset or a saved one", source.hub is not None or saved),
        (source.subset, "subset", "a hub dataset", source.hub is not None),
        (source.sheet, "sheet", "Excel", "excel" in kinds),
        (source.header, "header", "a table (CSV, TSV, Excel)", bool(kinds & set(TABLES))),
        (source.delimiter, "delimiter", "CSV", "csv" in kinds),
        (None if source.encoding == "auto" else source.encoding, "encoding", "text", bool(kinds - set(BINARY))),
    ]
    problems = [f"{where}: {key}: only for {what}" for value, key, what, used in idle if value and not used]
    if problems:
        raise DataError(problems)


def _read(file: DataFile, kind: str, source: SourceSection, findings: Findings) -> Iterator[Row]:
    """Rows of one file by the reader of its kind."""
    if kind == "parquet":
        return read_parquet(file, findings)
    if kind == "arrow":
        return read_arrow(file, findings)
    if kind == "excel":
        return read_excel(file, source.sheet, source.header, findings)
    encoding = encoding_of(file, source.encoding, findings)
    if encoding is None:
        return iter(())
    if kind in ("json", "text") and source.kind == "auto" and _holds_json_lines(file, encoding):
        findings.note(f"{file.label}: read as JSON Lines, not as its ending says; `kind:` overrides this")
        kind = "jsonl"
    if kind == "jsonl":
        return read_jsonl(file, encoding, findings)
    if kind == "json":
        return read_json(file, encoding, findings)
    if kind == "text":
        return read_text(file, encoding, findings)
    return read_csv(file, encoding, source.header, kind == "tsv", findings, source.delimiter)


def read_text(file: DataFile, encoding: str, findings: Findings) -> Iterator[Row]:
    """The file as one row {"text", "name"}; its text exactly as it is, line ends too."""
    text = whole_text(file, encoding, findings)
    if text is not None and text.strip():
        yield Row({"text": text, "name": file.name}, file.label, 1)


def _holds_json_lines(file: DataFile, encoding: str) -> bool:
    """JSON Lines come under the endings .json and .txt too: an object on the first line, another begun on the next."""
    filled = (line for _, line in lines(file, encoding, Findings()) if line is None or not line.isspace())
    first = next(filled, None)
    if first is None or not first.lstrip().startswith("{"):
        return False
    try:
        strict_json(first)
    except MalformedError:
        return False
    return (next(filled, None) or "").lstrip().startswith("{")
