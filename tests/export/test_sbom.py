"""The component list: right by CycloneDX's own schema, true of the files on disk, the same each time."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from finetune.export.sbom import LEFT_OUT, write_sbom


@pytest.fixture
def bundle(finished_run, tmp_path):
    return shutil.copytree(finished_run[1].bundle, tmp_path / "bundle")


@pytest.fixture
def manifest(bundle):
    return json.loads((bundle / "MANIFEST.json").read_text())


def component(document, reference):
    return next(part for part in document["components"] if part["bom-ref"] == reference)


def schema_error(text: str):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def test_the_list_is_valid_by_the_schema(bundle, manifest):
    """With and without what is optional; and the validator does refuse."""
    text = write_sbom(bundle, manifest).read_text()
    assert schema_error(text) is None
    full = manifest | {"created": "2026-11-22T04:00:00Z", "base": {
        "name_or_path": "org/model", "revision": None, "commit": "0123456789abcdef0123456789abcdef01234567"}}  # fmt: skip
    full["recipe"] = {"lora": {"r": 4}, "card": {"intended_use": "x", "limits": "y", "licence": "mit"}}
    full["data"]["sources"][0] |= {"licence": "cc-by-4.0", "provenance": "a survey", "files": 3}
    text = write_sbom(bundle, full).read_text()
    assert schema_error(text) is None
    document = json.loads(text)
    assert document["metadata"]["timestamp"] == "2026-11-22T04:00:00Z"
    assert component(document, "base")["purl"] == ("pkg:huggingface/org/model@0123456789abcdef0123456789abcdef01234567")
    assert component(document, "data/0")["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    assert schema_error(text.replace('"machine-learning-model"', '"machine-learnt-model"')) is not None
    assert schema_error(text.replace("CC-BY-4.0", "CC-BYE-4.0")) is not None


def test_every_file_base_source_and_package_is_in_it(bundle, manifest):
    document = json.loads(write_sbom(bundle, manifest).read_text())
    files = {part["name"]: part["hashes"][0]["content"] for part in document["components"] if part["type"] == "file"}
    on_disk = {file.relative_to(bundle).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
               for file in bundle.rglob("*") if file.is_file()}  # fmt: skip
    assert files == {name: digest for name, digest in on_disk.items() if name not in LEFT_OUT}
    base = component(document, "base")
    assert "licenses" not in base and "purl" not in base
    assert base["name"] not in ("", manifest["base"]["name_or_path"])
    assert [part["hashes"][0]["content"] for part in base["components"]] == [*manifest["base"]["sha256"].values()]
    data = component(document, "data/0")
    assert (data["name"], data["hashes"][0]["content"]) == (
        "larger.jsonl", manifest["data"]["sources"][0]["sha256"],
    )  # fmt: skip
    assert {"name": "finetune:licence", "value": "not stated"} in data["properties"]
    packages = {part["name"]: part["version"] for part in document["components"] if part["type"] == "library"}
    assert packages == {name: version for name, version in manifest["versions"].items() if name != "finetune"}
    assert component(document, f"pkg:pypi/torch@{packages['torch'].replace('+', '%2B')}")["name"] == "torch"
    model = document["metadata"]["component"]
    assert (model["name"], model["description"]) == ("tiny", "the larger of two digits")
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data/0"}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {m["type"]: m["value"] for m in metrics if m["slice"] == "held-out, tuned"} == {
        name: str(value) for name, value in manifest["scores"]["tuned"].items()
    }
    low, high = manifest["intervals"]["tuned"]["field_match"]
    ends = next(m for m in metrics if (m["type"], m["slice"]) == ("field_match", "held-out, tuned"))[
        "confidenceInterval"
    ]
    assert ends == {"lowerBound": str(low), "upperBound": str(high)}
    assert document["dependencies"][0]["dependsOn"] == ["base", "data/0", *(p["bom-ref"] for p in (
        part for part in document["components"] if part["type"] == "library"))]  # fmt: skip


def test_the_same_bundle_gives_the_same_bytes_and_another_another_serial(bundle, manifest):
    first = write_sbom(bundle, manifest).read_bytes()
    assert write_sbom(bundle, manifest).read_bytes() == first
    (bundle / "config.json").write_text("{}")
    second = write_sbom(bundle, {**manifest, "files": {}}).read_bytes()
    assert json.loads(second)["serialNumber"] != json.loads(first)["serialNumber"]


def test_no_path_of_this_machine_is_in_it(bundle, manifest, tmp_path, finished_run):
    text = write_sbom(bundle, manifest).read_text()
    for path in (str(tmp_path), manifest["base"]["name_or_path"], str(finished_run[0].output_dir)):
        assert path not in text


def test_a_bundle_of_an_adapter_made_elsewhere(bundle, manifest):
    """No recipe, no data, no scores: what is not known is left out."""
    for name in ("recipe.yaml", "data_template.yaml"):
        (bundle / name).unlink()
    bare = {key: manifest[key] for key in ("name", "base", "versions")}
    text = write_sbom(bundle, bare).read_text()
    assert schema_error(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["modelCard"]["modelParameters"].keys() == {
        "approach", "task", "modelArchitecture",
    }  # fmt: skip
    assert not [part for part in document["components"] if part["type"] == "data"]
