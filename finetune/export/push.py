"""Uploads of a bundle to the Hugging Face hub and to ModelScope, each through its own client and its own login."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RecipeError
from finetune.export.outgoing import outgoing

LOGIN = {401: "not logged in, or the token is not valid; run `hf auth login`",
         403: "this login may not write there; take a token with write access, or another name",
         404: "no such place, or this login may not see it",
         409: "the repository is being changed by somebody else; try again",
         413: "too large for the hub"}  # fmt: skip
PRIVATE = 1  # ModelScope's number


@dataclass(frozen=True)
class Pushed:
    """An upload that is complete.

    Attributes:
        url: where it can be seen.
        files: names of all that was uploaded.
        notes: what is not as in the bundle.
    """

    url: str
    files: list[str]
    notes: list[str]


def push_to_hub(
    bundle: Path, repo: str, revision: str | None = None, private: bool = True, endpoint: str | None = None
) -> Pushed:
    """One commit with the whole bundle; the repository is made where there is none.

    Args:
        repo: `ORG/NAME`.
        revision: a branch, made where there is none; None for the main one.
        private: only this login's organisation may read. A repository that is there already keeps its visibility, so a
            public one is refused with `private`.
        endpoint: of a hub other than the one that huggingface_hub is set to.

    Raises:
        RecipeError: the bundle is not whole or not as exported; the hub says no, in a line.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_name("--push-to-hub", repo)
    api = HfApi(endpoint=endpoint)
    with outgoing(bundle, public=not private) as ready, _hub_says(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise RecipeError(
                f"--push-to-hub: {repo} is there already and public; make it private first, or say that the bundle "
                "may be public"
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        # not upload_folder: huggingface_hub 2 makes several commits of it, and one that fails leaves half a bundle
        files = [CommitOperationAdd(name, ready.folder / name) for name in ready.files]
        done = api.create_commit(repo, files, commit_message=f"Upload {bundle.resolve().name}", revision=revision)
        return Pushed(str(done.commit_url), ready.files, ready.notes)


def push_to_modelscope(bundle: Path, repo: str, private: bool = True, endpoint: str | None = None) -> Pushed:
    """The whole bundle into a ModelScope model, which is made where there is none.

    Raises:
        RecipeError: modelscope-hub is not installed; the bundle is not as exported; ModelScope says no, in a line.
    """
    _check_name("--push-to-modelscope", repo)
    try:
        from modelscope_hub import HubApi
        from modelscope_hub.errors import AlreadyExistsError, HubError
    except ImportError:
        raise RecipeError(
            "--push-to-modelscope: needs the package modelscope-hub; pip install 'finetune[modelscope]'"
        ) from None
    api = HubApi(endpoint=endpoint)
    with outgoing(bundle, public=not private) as ready:
        try:
            try:
                # without a licence the client would claim Apache-2.0
                visibility = "private" if private else "public"
                api.create_repo(repo, "model", visibility=visibility, license=_licence(bundle))
            except AlreadyExistsError:
                if private and api.get_repo(repo, "model").visibility != PRIVATE:
                    raise RecipeError(
                        f"--push-to-modelscope: {repo} is there already and not private; make it private first, or say "
                        "that the bundle may be public"
                    ) from None
            api.upload_folder(
                repo, "model", ready.folder, commit_message=f"Upload {bundle.resolve().name}", use_cache=False,
                disable_tqdm=True,
            )  # fmt: skip
        except HubError as error:
            advice = f"; {error.suggestion}" if error.suggestion else ""
            raise RecipeError(f"--push-to-modelscope: {repo}: {_line(error)}{advice}") from None
        except OSError as error:  # requests' errors, which the client lets through
            raise RecipeError(f"--push-to-modelscope: {repo}: no connection: {_line(error)}") from None
        where = (endpoint or str(api._config.endpoint)).rstrip("/")
        return Pushed(f"{where}/models/{repo}", ready.files, ready.notes)


def _licence(bundle: Path) -> str:
    """The identifier that the model card gives; `other` where it is not known."""
    from huggingface_hub import ModelCard

    file = bundle / "README.md"
    name = ModelCard(file.read_text(encoding="utf-8")).data.get("license") if file.is_file() else None
    return "other" if name in (None, "unknown") else str(name)


def _check_name(option: str, repo: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or ".." in repo or "--" in repo:
        raise RecipeError(f"{option}: ORG/NAME is needed, letters, digits, . - and _; got {repo!r}")


@contextmanager
def _hub_says(repo: str) -> Iterator[None]:
    """The client's errors as one line each."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    def refused(reason: str) -> RecipeError:
        return RecipeError(f"--push-to-hub: {repo}: {reason}")

    try:
        yield
    except LocalTokenNotFoundError:
        raise refused(LOGIN[401]) from None
    except OfflineModeIsEnabled:
        raise refused("HF_HUB_OFFLINE is set, so nothing can be uploaded") from None
    except RecipeError:
        raise
    except Exception as error:
        # huggingface_hub 1 raises httpx's errors, 2 httpx2's: not imported here for their name alone
        if not isinstance(error, OSError | RuntimeError | ValueError) and "httpx" not in type(error).__module__:
            raise
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        response = getattr(cause, "response", None)
        if response is not None:
            status = response.status_code
            said = getattr(cause, "server_message", None) or response.reason_phrase
            raise refused(f"{LOGIN.get(status, 'the hub says no')} (HTTP {status}: {said})") from None
        raise refused(_line(cause) or type(cause).__name__) from None


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
