"""The bundle: everything a server needs, nothing half-written, and a manifest that says where it came from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from finetune import device
from finetune.data.filehash import file_sha256
from finetune.errors import RecipeError
from finetune.evaluate.release import release_files
from finetune.export.adapterfile import PROMPTS
from finetune.export.beside import add_beside
from finetune.export.canon import Canonical, canonical
from finetune.export.card import write_card
from finetune.export.converted import add_serving
from finetune.export.facts import read_json
from finetune.export.layout import add_answering, modes_follow_umask, write_layout
from finetune.export.merge import merge
from finetune.export.parity import prove, prove_adapter
from finetune.export.record import Record
from finetune.export.rewards import prove_rewards
from finetune.export.sbom import write_sbom
from finetune.export.shards import STATE
from finetune.model.load import Source
from finetune.model.save import INITIAL
from finetune.recipe_export import ExportSection
from finetune.verify.golden import FACTS, SAMPLES

PACKAGES = ("finetune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")
MANIFEST = "MANIFEST.json"


def write_bundle(
    record: Record,
    run: Path | None,
    adapter: Path,
    final: Path,
    section: ExportSection,
    say: Callable[[str], None],
    overwrite: bool = False,
    original: Path | None = None,
) -> dict[str, Any]:
    """Merges, proves and writes the folder `final`; it appears whole or not at all.

    A merge that was killed is gone on with: its finished shards wait in the hidden draft beside `final`.

    Args:
        run: the run's folder, which holds its golden samples; None for an adapter made elsewhere.
        adapter: as it was trained; see finetune/model/save.py.
        say: gets a line for each thing done.
        overwrite: an earlier bundle there is replaced, once the new one is whole.
        original: of a base that lies quantised, the model that it was made from, for `export.merge_into: original`.

    Returns:
        The manifest.

    Raises:
        RecipeError: `final` exists already; something that a target can't serve.
        GateError: the merge is not finite or not the adapter, a converted file is not the model; no bundle is left.
    """
    check_free(final, overwrite)
    draft = final.with_name(f".{final.name}.partial")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        manifest = _fill(draft, final, record, run, adapter, section, say, original)
        modes_follow_umask(draft)
    except Exception:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _replace(draft, final)
    return manifest


def check_free(final: Path, overwrite: bool) -> None:
    """Nothing is there, or an earlier bundle that may go."""
    if not final.exists():
        return
    if not (final / MANIFEST).is_file():
        raise RecipeError(f"{final} exists and is not a bundle (no {MANIFEST}); give another --output")
    if not overwrite:
        raise RecipeError(f"{final} already exists; give another --output, or --overwrite it")


def _replace(draft: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    draft.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _fill(
    draft: Path,
    final: Path,
    record: Record,
    run: Path | None,
    adapter: Path,
    section: ExportSection,
    say: Callable[[str], None],
    original: Path | None = None,
) -> dict[str, Any]:
    _clear_but_shards(draft)
    base, named = record.source.folder(), record.source
    if record.ship_base:  # a GGUF base exists nowhere as a folder that others can load
        shutil.copytree(base, draft / "base", copy_function=_link)
        named = Source(str(final.resolve() / "base"))
    initial = adapter / INITIAL
    canon = canonical(adapter, draft / "adapter", initial if initial.is_file() else None, base)
    if read_json(draft / "adapter/adapter_config.json").get("peft_type") in PROMPTS:
        return _fill_unmerged(draft, base, named, record, run, canon, section, say)
    beside = add_beside(draft, section.adapters, base)
    for folder in ("adapter", *(f"adapters/{name}" for name in beside)):
        _name_base(draft / folder, named)

    into, trusted = merge_base(record, section, base, original), record.source.trust_remote_code
    dtype = _dtype(into, record, section)
    merged = merge(
        into, draft / "adapter", draft, dtype, section.max_shard_size, score_head=bool(record.rewards),
        quantization=None if original_wanted(record, section) else record.quantization,
        trained=getattr(torch, record.dtype), trust_remote_code=trusted,
    )  # fmt: skip
    own = (adapter / "tokenizer_config.json").is_file()
    layout = write_layout(
        into, draft / "adapter" if own else base, draft, dtype=merged.dtype, tied=merged.tied,
        vocabulary=merged.vocabulary, stops=record.stops, trust_remote_code=trusted, score_config=record.score_config,
    )  # fmt: skip
    other = record.quantization is not None and original_wanted(record, section)
    proof = _prove(record, Source(str(base), trust_remote_code=trusted), draft, say, other)
    _write_sources(draft, record, run)
    rank = max(one.rank for one in (canon, *beside.values()))
    serving = add_serving(draft, base, rank, tuple(beside), record, section.targets, say)
    told = asdict(merged) | {"tokenizer": layout.tokenizer, "patched": layout.patched}
    return _finish(draft, record, canon, {"merge": told, "merge_proof": proof}, serving)


def _fill_unmerged(
    draft: Path,
    base: Path,
    named: Source,
    record: Record,
    run: Path | None,
    canon: Canonical,
    section: ExportSection,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """A bundle of virtual tokens: the adapter with all that its base needs to answer as it did, and no merged weights."""
    if section.dtype != "auto" or section.adapters:
        key = "dtype" if section.dtype != "auto" else "adapters"
        raise RecipeError(f"export.{key}: has no effect on virtual tokens, which are served alone and never merged")
    _name_base(draft / "adapter", named)
    add_answering(draft / "adapter", base, record.stops)
    proof = prove_adapter(
        Source(str(base), trust_remote_code=record.source.trust_remote_code), draft / "adapter", record.examples,
        record.evaluated, record.dtype, record.quantization,
    )  # fmt: skip
    said = proof["evaluated"]
    how = (
        f"differs by {said['mean_logprob_difference']:.1e} nats a token" if said else "loads, and its logits are finite"
    )
    say(f"the adapter on disk: {how} ({proof['rows']} conversations); nothing is merged")
    _write_sources(draft, record, run)
    serving = add_serving(draft, base, canon.rank, (), record, section.targets, say)
    return _finish(draft, record, canon, {"adapter_proof": proof}, serving)


def _write_sources(draft: Path, record: Record, run: Path | None) -> None:
    """Recipe, template, golden samples and what was decided of the model, as far as there are any."""
    for text, name in ((record.template, "data_template.yaml"), (_yaml(record.recipe), "recipe.yaml")):
        if text is not None:
            (draft / name).write_text(text, encoding="utf-8")
    for name in (SAMPLES, FACTS):
        if run is not None and (run / name).is_file():  # a run without answers has none
            shutil.copyfile(run / name, draft / name)
    for file in release_files(run) if run is not None else ():
        shutil.copyfile(file, draft / file.name)


def _finish(
    draft: Path, record: Record, canon: Canonical, made: dict[str, Any], serving: list[dict[str, Any]]
) -> dict[str, Any]:
    """Card, list of components and manifest. `made`: what the manifest says of the merge and its proof."""
    manifest = {
        "name": record.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": record.identity,
        "data": record.data,
        "training": record.training,
        "scores": record.scores,
        **({"intervals": record.intervals} if record.intervals else {}),
        **({"rewards": list(record.rewards)} if record.rewards else {}),
        "adapter": {key: value for key, value in asdict(canon).items() if key != "folder"},
        **made,
        "serving": serving,
        "versions": {package: version(package) for package in PACKAGES},
        "environment": device.environment(),
        "git_commit": _git_commit(),
        "recipe": record.recipe,
    }
    write_card(draft, manifest)
    write_sbom(draft, manifest)
    manifest = {key: value for key, value in manifest.items() if key != "recipe"} | {"files": _hashes(draft)}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def original_wanted(record: Record, section: ExportSection) -> bool:
    """Whether the merge goes into the base as it lies on disk unquantised."""
    return record.quantization is None or section.merge_into == "original"


def merge_base(record: Record, section: ExportSection, base: Path, original: Path | None) -> Path:
    """The folder whose weights are merged into.

    Raises:
        RecipeError: a target that the record does not allow, with the way out.
    """
    method = (record.quantization or {}).get("method")
    if section.merge_into == "dequantised" and method is None:
        raise RecipeError("export.merge_into: dequantised: the base of this adapter is not quantised; leave it out")
    stored = record.quantization is not None and record.quantization["stored"]
    if stored and section.merge_into == "original":
        if original is None:
            raise RecipeError(
                f"export.merge_into: original: the base lies quantised on disk ({method}); name the model that it was made "
                "from: finetune export ... --merge-into original --base FOLDER"
            )
        return original
    return base


def _prove(
    record: Record, source: Source, draft: Path, say: Callable[[str], None], other: bool = False
) -> dict[str, Any]:
    """Merged = adapter, by logits or, of a reward model, by rewards.

    Args:
        other: merged into another base than the quantised one that was evaluated: measured and said, not held to a limit.
    """
    adapter, how = draft / "adapter", record.quantization
    if other and how:
        say(
            f"merged into the original base, NOT the {how['method']} one that the adapter was trained on; score it again"
        )
    if record.rewards:
        proof = prove_rewards(
            source, adapter, draft, record.rewards, record.examples, record.evaluated, record.dtype, how, not other
        )
        against = "against" if other else "="
        say(f"merged {against} adapter: largest reward difference {proof['max_reward_difference']:.2e} of rewards up to "
            f"{proof['largest_reward']:.3g} ({proof['dtype']}, {proof['rows']} conversations)")  # fmt: skip
        return proof
    proof = prove(source, adapter, draft, record.examples, record.evaluated, record.dtype, how, binding=not other)
    say(_proof_line(proof))
    return proof


def _dtype(base: Path, record: Record, section: ExportSection) -> torch.dtype | None:
    """Of the merged weights; None where it is the base's own: then tensors that it keeps in another stay so."""
    wanted = record.dtype if section.dtype == "auto" else section.dtype
    config = read_json(base / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype")
    return None if wanted == stored else getattr(torch, wanted)


def _clear_but_shards(draft: Path) -> None:
    """What an interrupted export left, but for the merge's own finished shards, which `merge` checks itself."""
    for left in draft.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif not left.name.startswith("model") and left.name != STATE:
            left.unlink()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)


def _name_base(adapter: Path, base: Source) -> None:
    """The base that the adapter's configuration names for peft and engines."""
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.name, "revision": base.revision}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _proof_line(proof: dict[str, Any]) -> str:
    return (
        f"merged {'=' if proof['limits'] else 'against'} adapter: "
        f"largest logit difference {proof['max_logit_difference']:.2e}, mean KL "
        f"{proof['mean_kl']:.1e}, greedy agreement {proof['greedy_agreement']:.2%} ({proof['dtype']}, "
        f"{proof['positions']} positions)"
    )


def _yaml(recipe: dict[str, Any] | None) -> str | None:
    return None if recipe is None else yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def _git_commit() -> str | None:
    """Commit of the toolkit's checkout, with `+` when it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
