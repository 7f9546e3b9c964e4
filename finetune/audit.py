"""`finetune audit`: the line cut short after encoding, over all rows, with everything that was found on one page."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Sequence
from pathlib import Path

from finetune.data.audit import collect
from finetune.data.audit_answers import answers_note
from finetune.data.audit_page import write
from finetune.data.audit_paths import Relative
from finetune.data.audit_types import AuditSource, Faults, Subject
from finetune.data.cache import tokenizer_digest
from finetune.data.chat import Example
from finetune.data.encode import Encoder, fitted, make_encoder
from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.prepare import Prepared, prepare
from finetune.data.screen import Screened
from finetune.device import quiet_libraries
from finetune.recipe import Recipe
from finetune.recipe_data import DataSection
from finetune.recipe_stages import KtoSection
from finetune.recipefile import load_recipe
from finetune.told import tell


def audit_command(options: argparse.Namespace) -> bool:
    """Audits each run of the recipe and prints the files; whether anything would stop one.

    Raises:
        DataError, RecipeError: as `audit_recipe`, and as loading the recipe.
    """
    recipe = load_recipe(options.recipe, options.set)
    told = []
    for run in recipe.stages or recipe.mixture or (recipe,):
        folder = options.output or Path(f"{recipe.output_dir}.audit")
        output = folder / run.name if recipe.stages or recipe.mixture else options.output
        wrong, files = audit_recipe(run, output, options.recipe.parent)
        print(*files, sep="\n")
        told.append({"name": run.name, "failed": wrong, "files": [str(file) for file in files]})
    failed = any(run["failed"] for run in told)
    tell(options.json, {"recipe": recipe.name, "failed": failed, "runs": told})
    return failed


def audit_recipe(recipe: Recipe, output: Path | None, folder: Path) -> tuple[bool, tuple[Path, Path]]:
    """Reads, screens and encodes every row of the recipe; no model is loaded.

    Args:
        output: where the files go; None: beside the recipe's output folder.
        folder: the recipe's; paths in the audit are relative to it.

    Returns:
        Whether anything would stop a run, and the files written: audit.json, audit.html.

    Raises:
        DataError, RecipeError: what keeps rows from being read or rendered at all.
    """
    quiet_libraries()
    from finetune.data.filehash import file_sha256
    from finetune.model.load import load_tokenizer

    data = prepare(recipe.data, recipe.seed, recipe.stage, recipe.settings)
    encoder = make_encoder(load_tokenizer(recipe.model), recipe.data, recipe.settings)
    whole = recipe.data.train_on == "all" or recipe.stage == "cpt"  # then no turn ends
    dropped, problems = list(data.dropped), _without_findings(data)
    rows = ROWS_OF_STAGE[recipe.stage]
    own = recipe.settings
    weights = (own.desirable_weight, own.undesirable_weight) if isinstance(own, KtoSection) else (1.0, 1.0)
    paths = Relative(folder, named_files(recipe.data))
    notes, by_source = _by_source(data.notes, [facts.name for facts in data.sources])
    sources = _encoded(recipe, data, encoder, dropped, problems, by_source)
    faults = Faults(
        dropped=[(where, paths.text(reason)) for where, reason in dropped],
        problems=problems,
        findings=data.findings,
        counts=data.counts,
        source_of=_sources_of_rows(data, [*(where for where, _ in dropped), *(found.where for found in data.findings)]),
    )
    files = [*data.files, *([data.template.path] if data.template else [])]
    hashes = {str(file): file_sha256(file) for file in files} | {"tokenizer": tokenizer_digest(encoder.tokenizer)}
    subject = Subject(
        name=recipe.name,
        tokenizer=encoder.tokenizer,
        max_length=recipe.data.max_length,
        stop_ids=frozenset() if whole else frozenset(encoder.control_ids),
        splits={"train": len(data.train), "eval": len(data.evaluate)},
        hashes=hashes,
        notes=notes + answers_note([example for source in sources for example in source.examples], rows, weights),
    )
    report = paths.audit(collect(subject, sources, faults))
    return report.failed, write(report, output or Path(f"{recipe.output_dir}.audit"))


def named_files(section: DataSection) -> list[Path]:
    """What the data section names on this machine; of a glob the part before its first folder with a `*`."""
    sources = (*section.train, *section.eval)
    named = [Path(source.path) for source in sources if source.path is not None]
    named += [Path(source.hub) for source in sources if source.hub is not None and Path(source.hub).is_dir()]
    named += [*section.screen.benchmarks, *([section.template] if section.template else [])]
    while magic := [path for path in named if glob.has_magic(str(path.parent))]:
        named = [path.parent if path in magic else path for path in named]
    return named


def _without_findings(data: Prepared) -> list[str]:
    """What stops a run, less the findings under `error`: the audit has those in a list of their own."""
    refused = set(Screened(data.train, data.evaluate, data.findings, data.counts).refusals())
    return [line for line in data.refusals if line not in refused]


def _encoded(
    recipe: Recipe,
    data: Prepared,
    encoder: Encoder,
    dropped: list[tuple[str, str]],
    problems: list[str],
    notes: Sequence[Sequence[str]],
) -> list[AuditSource]:
    """Examples by source; rows that were left out or could not be encoded are added to `dropped` and `problems`."""
    split: list[tuple[list[Example], list[Example]]] = [([], []) for _ in data.sources]
    trained = len(recipe.data.train)
    also_held_out = {facts.name: trained + i for i, facts in enumerate(data.sources[trained:])}  # a file may be both
    for part, samples in enumerate((data.train, data.evaluate)):
        for row in fitted(encoder, recipe.data, ROWS_OF_STAGE[recipe.stage], samples):
            index = data.source_of(row.where)
            index = also_held_out.get(data.sources[index].name, index) if part else index
            split[index][part].extend(row.examples)
            problems += row.problems
            if not row.examples and not row.problems:
                dropped += [(row.where, reason) for reason in row.reasons]
    return [
        AuditSource(
            name=facts.name,
            rows=facts.rows,
            examples=train,
            held_out=held_out,
            format=facts.format,
            licence=facts.section.licence,
            provenance=facts.section.provenance,
            notes=said,
        )
        for facts, (train, held_out), said in zip(data.sources, split, notes, strict=True)
    ]


def _by_source(notes: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Notes that begin with no source's path, and those of each source, without its path where it is all they begin with."""
    general: list[str] = []
    said: list[list[str]] = [[] for _ in names]
    for note in notes:
        of = [index for index, name in enumerate(names) if _is_of(note, name)]
        if of:
            index = max(of, key=lambda index: len(names[index]))
            said[index].append(note.removeprefix(f"{names[index]}: "))
        else:
            general.append(note)
    return general, said


def _sources_of_rows(data: Prepared, dropped: Sequence[str]) -> dict[str, int]:
    """`file:line` of dropped rows to the index of their source; a file without any sample is told by its name."""
    files = data.train.spool.source_of_file
    names = {facts.name: index for index, facts in reversed(list(enumerate(data.sources)))}
    found = {}
    for where in dropped:
        near = [index for name, index in names.items() if _is_of(where, name)]
        index = files.get(where.rpartition(":")[0], near[-1] if near else None)
        if index is not None:
            found[where] = index
    return found


def _is_of(text: str, name: str) -> bool:
    """Whether a note or a place begins with this source: its file, its folder, or the fixed part of its glob."""
    fixed = name
    while glob.has_magic(fixed):
        fixed = str(Path(fixed).parent)
    hub = fixed.partition("@")[0]  # its files are named by the commit that a revision came to
    return text.startswith((f"{name}:", f"{fixed}/", f"{fixed}\\", f"{hub}@"))
