"""The bundle's list of components in CycloneDX 1.6: model, base, data, packages, files, each with its hash.

Written as plain JSON: the CycloneDX library for Python (11.12) knows neither modelCard nor data components. It does have
the schema and the validator, which the tests use. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.export.origin import BaseModel, architecture, base_model, read_recipe, read_template

NAME = "sbom.cdx.json"
LEFT_OUT = (NAME, "MANIFEST.json")  # the manifest hashes the list, so the list can't hash the manifest
NAMESPACE = uuid.UUID("3d6a8b57-6c0e-4b43-9c37-5d6e7c1d9a10")  # of serial numbers, any fixed one

# Identifiers of the hub to those of SPDX, where CycloneDX asks for the latter's spelling. https://spdx.org/licenses/
SPDX = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0",
        "CC-BY-NC-SA-4.0", "GPL-3.0", "LGPL-3.0", "AGPL-3.0", "MPL-2.0", "ODbL-1.0", "PDDL-1.0", "ISC", "Unlicense",
        "MulanPSL-2.0", "OGL-UK-3.0", "etalab-2.0",
    )
}  # fmt: skip


def write_sbom(bundle: Path, manifest: Mapping[str, Any]) -> Path:
    """Writes `sbom.cdx.json`: the same bundle gives the same bytes.

    Args:
        manifest: as in MANIFEST.json; hashes that its `files` has are taken, the rest is read. `created` (RFC 3339),
            where it is given, becomes the timestamp.

    Returns:
        The file.
    """
    base = base_model(manifest["base"])
    sources = [_data(number, source) for number, source in enumerate(_sources(manifest))]
    packages = [_package(name, version) for name, version in manifest["versions"].items() if name != "finetune"]
    model = _model(bundle, manifest, [source["bom-ref"] for source in sources])
    parts = [_base(base), *sources, *packages]
    metadata: dict[str, Any] = {
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [_toolkit(manifest)]},
        "component": model,
    }
    if manifest.get("created"):
        metadata = {"timestamp": manifest["created"]} | metadata
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": [*parts, *_files(bundle, manifest.get("files") or {})],
        "dependencies": [
            {"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }
    file = bundle / NAME
    _write(file, document)
    return file


def update_files(file: Path, hashes: Mapping[str, str]) -> None:
    """Rewrites a list for a copy of its bundle: `hashes` of the files that are in the copy; others leave the list."""
    document = json.loads(file.read_text(encoding="utf-8"))
    kept = [part for part in document["components"] if part["type"] != "file" or part["name"] in hashes]
    for part in kept:
        if part["type"] == "file":
            part["hashes"] = [{"alg": "SHA-256", "content": hashes[part["name"]]}]
    _write(file, document | {"components": kept})


def _write(file: Path, document: dict[str, Any]) -> None:
    """With a serial number out of the content."""
    body = {key: value for key, value in document.items() if key not in ("$schema", "serialNumber")}
    number = uuid.uuid5(NAMESPACE, json.dumps(body, sort_keys=True, ensure_ascii=False))
    head = {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "serialNumber": f"urn:uuid:{number}"}
    file.write_text(json.dumps(head | body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _interval(ends: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A metric's 95 % interval, where it has one."""
    if name not in ends:
        return {}
    low, high = ends[name]
    return {"confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}}


def _model(bundle: Path, manifest: Mapping[str, Any], data: list[str]) -> dict[str, Any]:
    recipe, template = read_recipe(bundle, manifest), read_template(bundle)
    card, training = recipe.get("card") or {}, manifest.get("training") or {}
    scores = manifest.get("scores") or {}
    parameters: dict[str, Any] = {"approach": {"type": "supervised"}, "task": "text-generation"}
    if architecture(bundle):
        parameters["modelArchitecture"] = architecture(bundle)
    if data:
        parameters["datasets"] = [{"ref": ref} for ref in data]
    considerations = {
        key: [str(card[name])]
        for key, name in (("useCases", "intended_use"), ("technicalLimitations", "limits"))
        if card.get(name)
    }
    intervals = manifest.get("intervals") or {}
    metrics = [
        {"type": name, "value": str(value), "slice": f"held-out, {who}"} | _interval(intervals.get(who) or {}, name)
        for who in ("base", "tuned")
        for name, value in (scores.get(who) or {}).items()
    ]
    kind = recipe.get("peft_type") or "lora"
    adapter = {f"finetune:{kind}.{key}": value for key, value in (recipe.get(kind) or {}).items()}
    rest = {f"finetune:training.{key}": value for key, value in training.items()}
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest["name"],
        "modelCard": {
            "modelParameters": parameters,
            **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
            **({"considerations": considerations} if considerations else {}),
            "properties": _properties(adapter | rest),
        },
    }
    if template:
        model["description"] = template["description"]
    return model | _licences(card.get("licence"))


def _base(base: BaseModel) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": "base", "name": base.name}
    if base.version:
        component["version"] = base.version
    if base.on_hub:  # https://github.com/package-url/purl-spec, type huggingface
        version = f"@{quote(base.version.lower(), safe='')}" if base.version else ""
        component["purl"] = f"pkg:huggingface/{quote(base.name)}{version}"
    component |= _licences(base.licence.own_name or base.licence.name)
    if base.hashes:
        component["components"] = [_file(f"base/{name}", name, digest) for name, digest in sorted(base.hashes.items())]
    return component


def _sources(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((manifest.get("data") or {}).get("sources") or [])


def _data(number: int, source: Mapping[str, Any]) -> dict[str, Any]:
    """A source; the hash of several files together is that of their list, so it stands under properties."""
    component: dict[str, Any] = {"type": "data", "bom-ref": f"data/{number}", "name": source["name"]}
    several = source["files"] > 1
    if not several:
        component["hashes"] = [{"alg": "SHA-256", "content": source["sha256"]}]
    component |= _licences(source.get("licence"))
    provenance = source.get("provenance")
    component["data"] = [
        {"type": "dataset", "name": source["name"], **({"description": provenance} if provenance else {})}
    ]
    kept = ("files", "rows", "samples", "dropped", "format", *(["sha256"] if several else []))
    stated = {"licence": source.get("licence") or "not stated", "provenance": provenance or "not stated"}
    component["properties"] = _properties(
        {f"finetune:{key}": value for key, value in {key: source.get(key) for key in kept}.items()}
        | {f"finetune:{key}": value for key, value in stated.items()}
    )
    return component


def _package(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _toolkit(manifest: Mapping[str, Any]) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "application", "name": "finetune", "version": manifest["versions"].get("finetune", "unknown")
    }  # fmt: skip
    facts = {f"finetune:{key}": value for key, value in (manifest.get("environment") or {}).items()}
    return component | {"properties": _properties(facts | {"finetune:git_commit": manifest.get("git_commit")})}


def _files(bundle: Path, known: Mapping[str, str]) -> list[dict[str, Any]]:
    from finetune.data.filehash import file_sha256

    names = sorted(file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file())
    return [
        _file(f"file/{name}", name, known.get(name) or file_sha256(bundle / name))
        for name in names
        if name not in LEFT_OUT
    ]


def _file(reference: str, name: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": reference, "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}


def _licences(name: str | None) -> dict[str, Any]:
    if not name:
        return {}
    known = SPDX.get(name.lower())
    return {"licenses": [{"license": {"id": known} if known else {"name": name}}]}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": key, "value": str(value)} for key, value in values.items() if value is not None]
