"""`finetune audit`: the line cut short after encoding, over all rows, with everything that was found on one page."""

from __future__ import annotations

from pathlib import Path

from finetune.data.audit import collect
from finetune.data.audit_page import write
from finetune.data.audit_types import AuditSource, Faults, Subject
from finetune.data.cache import tokenizer_digest
from finetune.data.chat import ChatEncoder, Example
from finetune.data.length import fit
from finetune.data.prepare import Prepared, prepare
from finetune.device import quiet_libraries
from finetune.recipe import Recipe


def audit_recipe(recipe: Recipe, output: Path | None) -> tuple[bool, tuple[Path, Path]]:
    """Reads, screens and encodes every row of the recipe; no model is loaded.

    Returns:
        Whether anything would stop a run, and the files written: audit.json, audit.html.

    Raises:
        DataError, RecipeError: what keeps rows from being read or rendered at all.
    """
    quiet_libraries()
    from finetune.model.load import file_sha256, load_tokenizer

    data = prepare(recipe.data, recipe.seed)
    encoder = ChatEncoder(load_tokenizer(recipe.model), recipe.data.train_on, recipe.data.special_tokens_in_data)
    dropped, problems = list(data.dropped), list(data.refusals)
    sources = _encoded(recipe, data, encoder, dropped, problems)
    faults = Faults(dropped, problems, data.findings, data.counts)
    files = [*data.files, *([data.template.path] if data.template else [])]
    hashes = {str(file): file_sha256(file) for file in files} | {"tokenizer": tokenizer_digest(encoder.tokenizer)}
    subject = Subject(
        name=recipe.name,
        tokenizer=encoder.tokenizer,
        max_length=recipe.data.max_length,
        stop_ids=frozenset() if recipe.data.train_on == "all" else frozenset(encoder.control_ids),
        splits={"train": len(data.train), "eval": len(data.evaluate)},
        hashes=hashes,
        notes=data.notes,
    )
    report = collect(subject, sources, faults)
    return report.failed, write(report, output or Path(f"{recipe.output_dir}.audit"))


def _encoded(
    recipe: Recipe, data: Prepared, encoder: ChatEncoder, dropped: list[tuple[str, str]], problems: list[str]
) -> list[AuditSource]:
    """Examples by source; rows that were left out or could not be encoded are added to `dropped` and `problems`."""
    split: list[tuple[list[Example], list[Example]]] = [([], []) for _ in data.sources]
    for part, samples in enumerate((data.train, data.evaluate)):
        for row in fit(encoder, samples, recipe.data.max_length, recipe.data.too_long):
            split[data.source_of(row.where)][part].extend(row.examples)
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
        )
        for facts, (train, held_out) in zip(data.sources, split, strict=True)
    ]
