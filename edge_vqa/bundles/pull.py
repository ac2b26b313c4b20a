"""Downloads a gguf pair or a bundle from the Hugging Face hub, and makes a bundle of it.

What is chosen, checked and written is decided here.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.border import untrusted
from edge_vqa.bundles import hub, ready, store
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles.manifest import MANIFEST, Manifest, Source
from edge_vqa.errors import EdgeVqaError

# What is taken when several files fit, by a part of the name; anything else comes last
LM_ORDER = ("q4_k_m", "q4_k_s", "iq4", "q4_1", "q4_0", "q5", "q6", "q8_0", "f16", "bf16", "f32")
VISION_ORDER = ("q8_0", "f16", "f32")
SPARE = 200 * 2**20  # bytes of disk that stay free


@dataclass(frozen=True)
class Remote:
    """A file of a repository: path in it, bytes, and sha256 where the hub states one."""

    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    licence: str
    files: tuple[Remote, ...]


def pull(
    name: str,
    patterns: Sequence[str] = (),
    *,
    as_name: str | None = None,
    force: bool = False,
    instruction: str = "",
    max_tokens: int = 32,
    detail: str = "low",
    template: str | None = None,
) -> tuple[Path, Manifest]:
    """Download what `OWNER/REPO[@REVISION]` offers into `bundle.home()`; returns the bundle's folder and manifest.

    patterns: names of the files to take, with `*`, where a repository offers several. An interrupted download goes on where
    it ended. Raises EdgeVqaError.
    """
    repository, revision = hub.split(name)
    found = look(repository, revision)
    chosen = choose(found, patterns)
    short = as_name or hub.short(repository)
    if not manifests.is_name(short):
        raise EdgeVqaError(f"{short!r} cannot be the name of a bundle", "give another with --name")
    output = store.home() / short
    if output.exists() and not force:
        raise EdgeVqaError(f"{output} exists already", "give another --name, or --force to replace it")
    work = store.home() / ".pulling" / f"{repository.replace('/', '--')}--{found.commit[:12]}"
    _check_space(work, chosen)
    paths = [fetch(found, file, work) for file in chosen]
    if chosen[0].path == MANIFEST:
        manifest = _take_bundle(found, work, output, force)
    else:
        lm, vision = paths
        manifest = ready.adopt(
            lm,
            vision,
            output,
            Source(repository, found.commit),
            force=force,
            move=True,
            name=short,
            licence=found.licence,
            description=f"{repository.split('/')[1]}, {Path(chosen[0].path).stem}",
            instruction=instruction,
            max_tokens=max_tokens,
            detail=detail,
            template=template,
        )
    shutil.rmtree(work, ignore_errors=True)
    return output, manifest


def choose(repository: Repository, patterns: Sequence[str]) -> list[Remote]:
    """bundle.json alone, or the LM and the vision tower that fit `patterns` and come first in LM_ORDER and VISION_ORDER."""
    for file in repository.files:
        if file.path == MANIFEST:
            return [file]
    files = [file for file in repository.files if file.path.lower().endswith(".gguf")]
    towers = [file for file in files if "mmproj" in file.path.lower()]
    models = [file for file in files if file not in towers]
    if not towers or not models:
        offered = ", ".join(file.path for file in files[:6]) or "no gguf at all"
        raise EdgeVqaError(
            f"{repository.name} offers no pair of a language model and a vision tower ({offered})",
            "look for a repository with *.gguf and mmproj*.gguf, or convert its checkpoint with edge-vqa-convert",
        )
    chosen = []
    for kind, offers, order in (("language model", models, LM_ORDER), ("vision tower", towers, VISION_ORDER)):
        fitting = [file for file in offers if any(fnmatch.fnmatch(file.path.lower(), p.lower()) for p in patterns)]
        if patterns and not fitting and kind == "language model":
            listed = ", ".join(file.path for file in offers)
            raise EdgeVqaError(f"no {kind} of {repository.name} fits {' '.join(patterns)}", f"choose among {listed}")
        best = min(fitting or offers, key=lambda file: (_rank(file.path, order), len(file.path), file.path))
        if "-of-0" in best.path:
            raise EdgeVqaError(f"{best.path} is one of several parts", "choose a file in one piece with --file")
        chosen.append(best)
    return chosen


def _rank(path: str, order: tuple[str, ...]) -> int:
    return next((number for number, part in enumerate(order) if part in path.lower()), len(order))


def _check_space(folder: Path, files: Sequence[Remote]) -> None:
    """Refuse before the download what would not fit; what an earlier try left counts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeVqaError(f"{folder} cannot be written ({error.strerror})", "set EDGE_VQA_HOME to another folder") from None
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = sum(file.bytes for file in files) - there + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise EdgeVqaError(
            f"{needed / 1e9:.2f} GB are needed in {store.home()}, {free / 1e9:.2f} GB are free",
            "free some space, or set EDGE_VQA_HOME to another disk",
        )


def _failed(error: Exception, name: str) -> EdgeVqaError:
    """What the hub's client raised, in one line."""
    kind, status = type(error).__name__, hub.status(error)
    if kind == "GatedRepoError" or status in (401, 403):
        return EdgeVqaError(f"{name} is not open to everyone, or does not exist", "check its name; log in with: hf auth login")
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError") or status == 404:
        return EdgeVqaError(f"{name} was not found on the hub", "check its name and revision")
    return EdgeVqaError(
        f"{name} could not be downloaded ({hub.reason(error)})", "check the connection and try again: it goes on where it ended"
    )


def look(repository: str, revision: str | None) -> Repository:
    """What a repository holds, from the hub."""
    client = hub.client()
    try:
        info = client.HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=30)
    except Exception as error:  # the client's and its HTTP library's own
        raise _failed(error, repository) from None
    files = tuple(
        Remote(file.rfilename, int(file.size or 0), file.lfs.sha256 if file.lfs else None) for file in info.siblings or ()
    )
    licence = getattr(info.card_data, "license", None) if info.card_data else None
    return Repository(repository, str(info.sha), str(licence or "unknown"), files)


def fetch(repository: Repository, file: Remote, folder: Path) -> Path:
    """Download one file, or what is missing of it, and compare size and checksum.

    `hf_hub_download` begins anew in each process; its own `http_get` goes on from what is there.
    """
    client = hub.client()
    from huggingface_hub.file_download import http_get

    path = folder / file.path.replace("/", "--")
    if path.is_file():
        return path  # checked by an earlier try
    part = path.with_name(f"{path.name}.part")
    part.touch()
    if file.bytes and part.stat().st_size > file.bytes:
        part.write_bytes(b"")
    url = client.hf_hub_url(repository.name, file.path, revision=repository.commit)
    try:
        with part.open("r+b") as stream:
            done = stream.seek(0, os.SEEK_END)
            if not file.bytes or done < file.bytes:
                http_get(
                    url,
                    stream,
                    resume_size=done,
                    headers=client.utils.build_hf_headers(),
                    expected_size=file.bytes or None,
                    displayed_filename=path.name,
                )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise EdgeVqaError(f"the disk of {folder} is full", "free some space and try again") from None
        raise _failed(error, f"{repository.name}/{file.path}") from None
    except Exception as error:  # the client's and its HTTP library's own
        raise _failed(error, f"{repository.name}/{file.path}") from None
    if (file.bytes and part.stat().st_size != file.bytes) or (file.sha256 and store.sha256(part) != file.sha256):
        part.unlink()
        raise EdgeVqaError(f"{file.path} arrived damaged: its checksum is not the hub's", "try again")
    part.replace(path)
    return path


def _take_bundle(found: Repository, work: Path, output: Path, force: bool) -> Manifest:
    """A repository that holds a bundle: its manifest decides which files belong to it."""
    try:
        manifest = manifests.parse(untrusted.read_text(work / MANIFEST, store.MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeVqaError(f"{found.name} holds a bundle that is not usable ({error})", "tell its author") from None
    wanted = [Remote(file.path, file.bytes, file.sha256) for file in manifest.files.values()]
    _check_space(work, wanted)
    paths = [fetch(found, file, work) for file in wanted]
    with store.new_folder(output, force=force) as folder:
        for path in (work / MANIFEST, *paths):
            shutil.move(path, folder / path.name)
    return manifest
