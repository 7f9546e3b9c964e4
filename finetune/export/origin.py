"""What a bundle's files and its base say of themselves, for the model card and the component list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import RecipeError

# First line of a licence's text to the hub's identifier.
# https://huggingface.co/docs/hub/repositories-licenses
LICENCE_TEXTS = {"apache license": "apache-2.0", "mit license": "mit", "the mit license": "mit"}


@dataclass(frozen=True)
class Licence:
    """A licence as it was found.

    Attributes:
        name: the hub's identifier (`apache-2.0`), `other` for one that only its text says; None: not known.
        own_name, link: of a licence that the hub has no identifier for.
        found_in: the file that says so.
    """

    name: str | None = None
    own_name: str | None = None
    link: str | None = None
    found_in: str = ""


@dataclass(frozen=True)
class BaseModel:
    """The base without a path of this machine.

    Attributes:
        name: the hub's id, `pkg:NAME`, or the folder's own name.
        on_hub: whether the hub knows it under this name.
        version: the commit (or else the revision) on the hub.
        hashes: sha256 of the weight files where it was a folder.
    """

    name: str
    on_hub: bool
    version: str | None
    hashes: dict[str, str]
    licence: Licence


def base_model(identity: Mapping[str, Any]) -> BaseModel:
    """The manifest's `base`, with the licence that its own files state. Nothing is guessed."""
    given = str(identity["name_or_path"])
    on_hub = "sha256" not in identity
    name = given if on_hub or given.startswith("pkg:") else Path(given).name
    version = identity.get("commit") or identity.get("revision")
    hashes = dict(identity.get("sha256") or {})
    return BaseModel(name, on_hub, version, hashes, _licence(given, on_hub, version, hashes))


def read_recipe(bundle: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved recipe, out of the manifest or the bundle; empty for an adapter that was made elsewhere."""
    if manifest.get("recipe"):
        return dict(manifest["recipe"])
    file = bundle / "recipe.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_template(bundle: Path) -> dict[str, str]:
    """Name and description of the bundle's data template; empty where there is none."""
    file = bundle / "data_template.yaml"
    if not file.is_file():
        return {}
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {key: " ".join(str(content[key]).split()) for key in ("name", "description")}


def _licence(given: str, on_hub: bool, version: str | None, hashes: Mapping[str, str]) -> Licence:
    if on_hub:
        readme = _hub_readme(given, version)
        return _of_readme(readme) if readme else Licence()
    folder = _folder(given)
    if folder is None:
        return Licence()
    readme_file = folder / "README.md"
    found = Licence()
    if readme_file.is_file():
        found = _of_readme(readme_file.read_text(encoding="utf-8", errors="replace"))
    if found.name is None:
        found = next((_of_gguf(folder / name) for name in hashes if name.endswith(".gguf")), Licence())
    if found.name is None:
        texts = sorted(file for file in folder.glob("LICEN[CS]E*") if file.is_file())
        found = _of_text(texts[0]) if texts else Licence()
    return found


def _folder(given: str) -> Path | None:
    from finetune.model.load import locate
    from finetune.recipe import ModelSection

    try:
        folder = Path(locate(ModelSection(name_or_path=given)))
    except RecipeError:
        return None
    return folder if folder.is_dir() else None


@cache
def _hub_readme(name: str, version: str | None) -> str | None:
    """The base's card, from the cache or the hub; transformers does not fetch it with the weights. Asked once, shortly:
    hf_hub_download would try for 23 s where there is no network."""
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    cached = try_to_load_from_cache(name, "README.md", revision=version)
    if isinstance(cached, str):
        return Path(cached).read_text(encoding="utf-8", errors="replace")
    try:
        url = hf_hub_url(name, "README.md", revision=version)
        answer = get_session().get(url, headers=build_hf_headers(), timeout=5, follow_redirects=True)
        answer.raise_for_status()
    except Exception:  # whatever keeps it away (offline, no card, no right to it): the licence is then unknown
        return None
    return str(answer.text)


def _of_readme(text: str) -> Licence:
    """The front matter's `license` (https://huggingface.co/docs/hub/model-cards#model-card-metadata)."""
    if not text.startswith("---"):
        return Licence()
    try:
        head = yaml.safe_load(text.split("---", 2)[1])
    except (yaml.YAMLError, IndexError):
        return Licence()
    name = head.get("license") if isinstance(head, dict) else None
    if isinstance(name, list):
        name = name[0] if len(name) == 1 else None
    if not isinstance(name, str):
        return Licence()
    link = head.get("license_link")
    # a link to a file of the base's own repository means nothing in another one
    return Licence(name, head.get("license_name"), link if str(link).startswith("http") else None, "README.md")


def _of_gguf(file: Path) -> Licence:
    try:
        from gguf import GGUFReader

        field = GGUFReader(file).get_field("general.license")
    except (ImportError, OSError, ValueError):
        return Licence()
    return Licence(str(field.contents()), found_in=f"{file.name}: general.license") if field else Licence()


def _of_text(file: Path) -> Licence:
    text = file.read_text(encoding="utf-8", errors="replace")
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    known = LICENCE_TEXTS.get(first.lower())
    return Licence(known or "other", None if known else first[:100], None, file.name)


def architecture(bundle: Path) -> str | None:
    """The merged model's class."""
    file = bundle / "config.json"
    names = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
    return names[0] if names else None
