"""Uploads a bundle to the Hugging Face hub, with a model card: in one commit, so that nobody pulls half of it."""

from __future__ import annotations

import re
from pathlib import Path

from edge_vqa.bundles import card, hub, store
from edge_vqa.bundles.manifest import MANIFEST
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError

CARD = "README.md"


def model_card(bundle: Bundle, repository: str) -> str:
    """README.md of the repository."""
    described = hub.client().ModelCardData(**card.data(bundle.manifest)).to_yaml()
    return f"---\n{described}\n---\n\n{card.body(bundle.manifest, repository, bundle.bytes)}"


def checked(repository: str) -> str:
    """OWNER/REPO. Raises EdgeVqaError."""
    name, revision = hub.split(repository)
    fits = all(re.fullmatch(r"\w([\w.-]{0,94}\w)?", part, re.ASCII) for part in name.split("/"))
    if revision or not fits or re.search(r"--|\.\.", name):
        raise EdgeVqaError(f"{repository!r} is no repository to push to", "give OWNER/REPO, of letters, digits, - . _")
    return name


def push(bundle: Bundle, repository: str, *, private: bool = False, keep_card: bool = False, message: str = "") -> str:
    """Upload all files of a bundle, compared with their checksums before, and a model card, into `OWNER/REPO`, which is made
    where there is none. Returns the address of the commit.

    private: of a repository that is made. keep_card: leave the README.md that is there. What the hub has already is not sent
    again, so that an upload that broke off goes on. Raises EdgeVqaError.
    """
    name = checked(repository)
    store.verify(bundle, thorough=True)
    client = hub.client()
    contents: dict[str, Path | bytes] = {MANIFEST: bundle.folder / MANIFEST}
    contents |= {path.name: path for path in bundle.files.values()}
    if not keep_card:
        contents[CARD] = model_card(bundle, name).encode()
    api = client.HfApi()
    added = [client.CommitOperationAdd(path, content) for path, content in contents.items()]
    said = message or f"{bundle.name} {bundle.manifest.version}"
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.create_commit(name, added, commit_message=said).commit_url)
    except Exception as error:  # the client's and its HTTP library's own
        raise _failed(error, name) from None


def _failed(error: Exception, name: str) -> EdgeVqaError:
    if hub.status(error) in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return EdgeVqaError(f"you may not write {name}", "log in with a token that may: hf auth login")
    return EdgeVqaError(
        f"{name} could not be uploaded ({hub.reason(error)})", "check the connection and try again: it goes on where it ended"
    )
