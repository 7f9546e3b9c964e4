"""Uploads, mocked at the HTTP border: every byte that arrives, what stays at home, and one line for each no."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from finetune.errors import RecipeError
from finetune.export.card import write_card
from finetune.export.outgoing import outgoing, verified
from finetune.export.push import push_to_hub, push_to_modelscope
from finetune.export.sbom import write_sbom
from tests.export.servers import DROP, HuggingFace, ModelScope, serving

# huggingface_hub 2.4 sends LFS objects by an argument that its httpx2 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

GOLDEN = '{"prompt": [{"role": "user", "content": "1 2?"}], "answer": "larger 2"}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def seal(bundle: Path, manifest) -> None:
    """MANIFEST.json of what lies in the folder."""
    files = {file.relative_to(bundle).as_posix(): sha256(file.read_bytes())
             for file in sorted(bundle.rglob("*")) if file.is_file() and file.name != "MANIFEST.json"}  # fmt: skip
    (bundle / "MANIFEST.json").write_text(json.dumps(manifest | {"files": files}))


@pytest.fixture
def bundle(finished_run, tmp_path):
    """A finished bundle with card, component list and golden samples."""
    folder = shutil.copytree(finished_run[1].bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "golden.jsonl").write_text(GOLDEN)
    write_card(folder, manifest)
    write_sbom(folder, manifest)
    seal(folder, manifest)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, and huggingface_hub logged in to it with a token of the test's own."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # LFS: what HTTP shows
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    with serving(HuggingFace()) as server:
        yield server


def test_all_of_the_bundle_arrives_and_its_manifest_holds(bundle, hub):
    """Weights as LFS, the rest within one commit; the manifest that arrives is true of the bytes that arrived."""
    done = push_to_hub(bundle, "org/model", endpoint=hub.url)
    assert done.url == f"{hub.url}/org/model/commit/{'a' * 40}"
    on_disk = {file.relative_to(bundle).as_posix(): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    assert hub.files.keys() == on_disk.keys() == set(done.files)
    assert set(hub.large) == {"model.safetensors", "adapter/adapter_model.safetensors"}
    changed = {name for name in on_disk if hub.files[name] != on_disk[name]}
    assert changed == {"MANIFEST.json", "recipe.yaml", "adapter/adapter_config.json", "golden.json", "sbom.cdx.json"}
    manifest = json.loads(hub.files["MANIFEST.json"])
    assert manifest["files"] == {
        name: sha256(content) for name, content in hub.files.items() if name != "MANIFEST.json"
    }
    listed = {part["name"]: part["hashes"][0]["content"]
              for part in json.loads(hub.files["sbom.cdx.json"])["components"] if part["type"] == "file"}  # fmt: skip
    assert listed == {name: sha256(content) for name, content in hub.files.items() if name in listed}
    assert len(listed) == len(on_disk) - 2
    assert hub.body("/api/repos/create")["name"] == "model" and hub.private is True
    assert len([path for path in hub.paths("POST") if "/commit/" in path]) == 1
    assert hub.body("/api/validate-yaml")["content"] == (bundle / "README.md").read_text()
    assert hub.tokens - {None} == {"Bearer hf_test"}


def test_no_path_of_this_machine_arrives(bundle, hub, finished_run, tiny_base, tiny_data):
    done = push_to_hub(bundle, "org/model", endpoint=hub.url)
    everything = b"".join(hub.files.values())
    for place in (finished_run[0].output_dir, tiny_base, tiny_data):
        assert str(place).encode() in b"".join(file.read_bytes() for file in bundle.rglob("*.*"))
        assert str(place).encode() not in everything
    recipe = yaml.safe_load(hub.files["recipe.yaml"])
    assert recipe["data"]["train"][0]["path"] == "larger.jsonl"
    assert recipe["data"]["template"] == "larger.yaml"
    assert json.loads(hub.files["MANIFEST.json"])["base"]["name_or_path"] == tiny_base.name
    assert json.loads(hub.files["adapter/adapter_config.json"])["base_model_name_or_path"] == tiny_base.name
    assert done.notes == [
        "paths of this machine made bare names in adapter/adapter_config.json, golden.json, recipe.yaml"
    ]


def test_held_out_rows_stay_at_home_when_all_may_read(bundle, hub):
    done = push_to_hub(bundle, "org/model", private=False, endpoint=hub.url)
    assert hub.private is False
    assert "golden.jsonl" not in hub.files and "golden.jsonl" not in done.files
    assert "golden.jsonl" not in json.loads(hub.files["MANIFEST.json"])["files"]
    assert b'"golden.jsonl"' not in hub.files["sbom.cdx.json"]
    assert "left out of a public place: golden.jsonl, which holds held-out rows" in done.notes
    assert GOLDEN.encode() not in b"".join(hub.files.values())


def test_a_public_repository_is_not_taken_for_a_private_one(bundle, hub):
    hub.private = False
    with pytest.raises(RecipeError, match="org/model is there already and public; make it private first"):
        push_to_hub(bundle, "org/model", endpoint=hub.url)
    assert hub.files == {} and hub.objects == {}
    push_to_hub(bundle, "org/model", private=False, endpoint=hub.url)
    assert "model.safetensors" in hub.large


def test_a_branch_is_made_and_committed_to(bundle, hub):
    push_to_hub(bundle, "org/model", revision="v2", endpoint=hub.url)
    assert "/api/models/org/model/branch/v2" in hub.paths("POST")
    assert "/api/models/org/model/commit/v2" in hub.paths("POST")
    assert not [path for path in hub.paths("POST") if path.endswith("/commit/main")]


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (("POST", "/api/repos/create"), 401, "not logged in, or the token is not valid; run `hf auth login` (HTTP 401"),
        (("POST", "/api/repos/create"), 403, "this login may not write there"),
        (("POST", "/commit/"), 409, "the repository is being changed by somebody else; try again (HTTP 409"),
        (("POST", "/preupload/"), 404, "no such place, or this login may not see it"),
        (("POST", "/api/validate-yaml"), 400, "Invalid metadata in README.md"),
        (("POST", "/objects/batch"), 500, "the hub says no (HTTP 500"),
        (("PUT", "/lfs/"), 403, "this login may not write there"),
        (("POST", "/api/repos/create"), DROP, "Server disconnected without sending a response"),
        (("POST", "/commit/"), DROP, "Server disconnected without sending a response"),
    ],
)
def test_each_no_is_one_line(bundle, hub, request_, status, said):
    hub.refuse[request_] = status
    with pytest.raises(RecipeError) as error:
        push_to_hub(bundle, "org/model", endpoint=hub.url)
    (line,) = error.value.problems
    assert line.startswith("--push-to-hub: org/model: ") and said in line
    assert "\n" not in line and "hf_test" not in line
    assert hub.files == {}, "nothing is committed"


def test_without_a_server_or_offline(bundle, hub, monkeypatch):
    with pytest.raises(RecipeError, match=r"--push-to-hub: org/model: .*refused"):
        push_to_hub(bundle, "org/model", endpoint="http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded"):
        push_to_hub(bundle, "org/model", endpoint=hub.url)
    assert hub.requests == []


def test_only_what_the_manifest_names_leaves(bundle, hub):
    """A changed file, a missing one, an unknown one, a link: all said, nothing sent."""
    (bundle / "config.json").write_text("{}")
    (bundle / "tokenizer.json").unlink()
    (bundle / "notes.txt").write_text("secret")
    (bundle / "elsewhere").symlink_to("/etc/hostname")
    with pytest.raises(RecipeError) as error:
        push_to_hub(bundle, "org/model", endpoint=hub.url)
    assert error.value.problems == sorted([
        f"{bundle / 'config.json'}: changed since the export (sha256 is not that of MANIFEST.json); export again",
        f"{bundle / 'tokenizer.json'}: is missing",
        f"{bundle / 'notes.txt'}: not named by MANIFEST.json; take it out",
        f"{bundle / 'elsewhere'}: is a link; put the file itself there",
    ])  # fmt: skip
    assert hub.requests == []


@pytest.mark.parametrize("name", ["model", "org/model/x", "org/../x", "https://hub/org/model", "org/", "a b/c"])
def test_a_repository_needs_its_whole_name(bundle, hub, name):
    for push, option in ((push_to_hub, "--push-to-hub"), (push_to_modelscope, "--push-to-modelscope")):
        with pytest.raises(RecipeError, match=f"{option}: ORG/NAME is needed"):
            push(bundle, name, endpoint=hub.url)
    assert hub.requests == []


def test_a_place_that_is_part_of_another_is_replaced_whole(bundle):
    """Longest first; a path that only looks like the beginning of another stays; containers' homes are only named."""
    recipe = {"output_dir": "/data/run", "data": {"train": [{"path": "/data/run/rows.jsonl"}]}, "name": "/no_think"}
    (bundle / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (bundle / "serve.sh").write_text(
        f"run /data/run/rows.jsonl /data/runner x/data/run /no_think {Path.home()}/.cache\n"
    )
    seal(bundle, json.loads((bundle / "MANIFEST.json").read_text()))
    with outgoing(bundle, public=False) as ready:
        text = (ready.folder / "serve.sh").read_text()
        assert text == f"run rows.jsonl /data/runner x/data/run /no_think {Path.home()}/.cache\n"
        assert any(note.startswith("look before it is seen: serve.sh names a path under") for note in ready.notes)
        assert (ready.folder / "model.safetensors").is_symlink()
        verified_names = set(json.loads((ready.folder / "MANIFEST.json").read_text())["files"])
        assert verified_names == set(ready.files) - {"MANIFEST.json"}
        staged = ready.folder
    assert not staged.exists()
    assert "/data/run/rows.jsonl" in (bundle / "recipe.yaml").read_text(), "the bundle itself stays as it is"
    assert verified(bundle)["name"] == "tiny"


@pytest.fixture
def modelscope(monkeypatch, tmp_path):
    pytest.importorskip("modelscope_hub")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-test")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    monkeypatch.setattr("modelscope_hub._upload.time.sleep", lambda _seconds: None)
    with serving(ModelScope()) as server:
        yield server


def test_modelscope_gets_the_same_files(bundle, modelscope):
    """And the licence that the card states, not the client's default."""
    done = push_to_modelscope(bundle, "org/model", endpoint=modelscope.url)
    assert done.url == f"{modelscope.url}/models/org/model"
    assert (
        set(modelscope.files)
        == set(done.files)
        == {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()}
    )
    assert modelscope.files["model.safetensors"] == (bundle / "model.safetensors").read_bytes()
    manifest = json.loads(modelscope.files["MANIFEST.json"])
    assert manifest["files"] == {
        name: sha256(content) for name, content in modelscope.files.items() if name != "MANIFEST.json"
    }
    body = modelscope.body("/api/v1/models$")
    assert (body["Path"], body["Name"], body["Visibility"], body["License"]) == ("org", "model", 1, "other")


def test_modelscope_says_no_in_a_line(bundle, modelscope):
    modelscope.refuse["POST", "/api/v1/models$"] = 401
    with pytest.raises(RecipeError) as error:
        push_to_modelscope(bundle, "org/model", endpoint=modelscope.url)
    (line,) = error.value.problems
    assert line.startswith("--push-to-modelscope: org/model: ") and "401" in line and "\n" not in line
    assert "ms-test" not in line
    modelscope.refuse.clear()
    modelscope.private = False
    with pytest.raises(RecipeError, match="is there already and not private"):
        push_to_modelscope(bundle, "org/model", endpoint=modelscope.url)
    assert modelscope.files == {}


def test_modelscope_is_an_extra(bundle, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(RecipeError, match=r"pip install 'finetune\[modelscope\]'"):
        push_to_modelscope(bundle, "org/model")


def test_what_was_uploaded_can_be_run_again(bundle, hub, tiny_base, tiny_data, tmp_path):
    """The copy names no place, so base and rows are said anew; its template is its own."""
    from finetune.reproduce import checked, read_manifest

    push_to_hub(bundle, "org/model", endpoint=hub.url)
    for name, content in hub.files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    got = tmp_path / "got"
    verified(got)
    with pytest.raises(RecipeError, match=r"no such file: .*larger\.jsonl; say where it is now: --set data\.train="):
        checked(got, read_manifest(got), tmp_path / "again", [])
    places = [f"data.train={tiny_data / 'larger.jsonl'}", f"model.name_or_path={tiny_base}"]
    recipe, notes = checked(got, read_manifest(got), tmp_path / "again", places)
    assert (notes, recipe.data.template) == ([], got / "data_template.yaml")


def test_every_path_of_a_recipe_is_known_as_one():
    """What a recipe may name on this machine, wherever it stands, is found to be made a bare name."""
    from finetune.export.outgoing import _under_path_keys

    told = {
        "model": {"name_or_path": "/a/base", "adapter_name_or_path": "/a/first"},
        "data": {"template": "/a/t.yaml", "train": [{"path": "/a/rows.jsonl"}], "screen": {"benchmarks": ["/a/b.jsonl"]}},
        "evaluate": {
            "previous": "/a/v1", "lm_eval": {"include_path": "/a/tasks"}, "vllm": {"python": "/a/bin/python"},
            "suites": {"safety": {"template": "/a/s.yaml", "data": [{"path": "/a/s.jsonl"}]}},
        },
        "export": {"adapters": {"other": "/a/other"}, "targets": [{"engine": "vllm", "converter": "/a/convert"}]},
    }  # fmt: skip
    text = json.dumps(told)
    assert sorted(_under_path_keys(told)) == sorted(re.findall(r'"(/a/[^"]*)"', text))
