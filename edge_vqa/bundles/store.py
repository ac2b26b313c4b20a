"""Bundles on disk: finds them by name, reads and verifies them, makes and replaces their folders.

Nothing native is loaded here, and nothing is believed before it is checked: sizes and checksums are refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_vqa.border import untrusted
from edge_vqa.bundles import packages
from edge_vqa.bundles.manifest import BACKENDS, MANIFEST, File, Manifest, is_name, parse
from edge_vqa.errors import EdgeVqaError

MOST_BYTES = 4 * 2**20  # of bundle.json
EMBEDDED = Path(__file__).parent
DEFAULT = "mini"
CHOSEN = "EDGE_VQA_MODEL"  # a name or folder, for whoever does not want to write --model each time
ALWAYS_VERIFIED_BYTES = 64 * 2**20  # a bundle up to this size is hashed at every load: some 30 ms


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its folder and its checked manifest."""

    folder: Path
    manifest: Manifest
    files: dict[str, Path] = field(default_factory=dict)
    instead_of: str = ""  # which default could not be used, and why

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> tuple[str, str]:
        """Checksums of the LM and of the vision tower that scores hold for: traces and a Selector belong to these two files."""
        return self.fingerprint_with(self.manifest.runtime.tower)

    @property
    def backend(self) -> str:
        """What runs the vision tower that scores hold for."""
        return next(backend for backend, role in BACKENDS.items() if role == self.manifest.runtime.tower)

    def fingerprint_with(self, tower: str) -> tuple[str, str]:
        """The fingerprint of traces made with another of its towers."""
        return self.manifest.files["lm"].sha256, self.manifest.files[tower].sha256

    def pair(self, second: Bundle) -> str:
        """A checksum of this bundle and one that looks again: of all that their answers and confidences depend on."""
        parts = []
        for bundle in (self, second):
            files = sorted((role, file.sha256) for role, file in bundle.manifest.files.items())
            parts.append((files, bundle.manifest.runtime.tower, bundle.manifest.temperature))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.manifest.files.values())


def home() -> Path:
    """Where pulled and converted bundles are looked up by name: `$EDGE_VQA_HOME`, else `~/.cache/edge-vqa`."""
    return Path(os.environ.get("EDGE_VQA_HOME") or Path.home() / ".cache" / "edge-vqa")


def known() -> dict[str, Path]:
    """Names that `find` understands, with their folders; those in `home()` come before the embedded ones, and these before
    packages."""
    found = {offer.name: offer.folder for offer in packages.offers() if not offer.fault}
    for root in (EMBEDDED, home()):
        if root.is_dir():
            found |= {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}
    return found


def origin(folder: Path) -> str:
    """Where a bundle comes from, for a list: `edge-vqa` itself, a folder, or the package that brought it."""
    if folder.parent == EMBEDDED:
        return "edge-vqa"
    brought = {offer.folder: offer.distribution for offer in packages.offers()}
    return brought[folder] if folder in brought else str(folder.parent)


def find(name: str | Path | None = None) -> Path:
    """The folder of a bundle, by path or by name; None is the embedded model."""
    wanted = str(name if name is not None else DEFAULT)
    places = [Path(wanted)]
    if is_name(wanted):
        places += [home() / wanted, EMBEDDED / wanted]
    for path in places:
        if (path / MANIFEST).is_file():
            return path
    if (folder := packages.folder_of(wanted)) is not None:
        return folder
    path, names = Path(wanted), known()
    if path.is_dir():
        raise EdgeVqaError(f"{wanted} holds no {MANIFEST}", "make a bundle with edge-vqa-convert")
    listing = ", ".join(names) or "none"
    raise EdgeVqaError(f"no bundle {wanted!r}", f"give a folder, or one of the known names: {listing}")


def read(name: str | Path | None = None) -> Bundle:
    """Find a bundle and read its manifest; without a name that of `$EDGE_VQA_MODEL`, else the base model where it is installed,
    else the embedded one. File sizes are checked, contents are not: see `verify`."""
    name = name if name is not None else os.environ.get(CHOSEN) or None
    if name is None and packages.has_base():
        try:
            return read(packages.BASE)
        except EdgeVqaError as error:
            return replace(read(DEFAULT), instead_of=f"the base model cannot be used ({error.what}): {DEFAULT} answers")
    folder = find(name)
    try:
        manifest = parse(untrusted.read_text(folder / MANIFEST, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeVqaError(f"{folder / MANIFEST} is not usable ({error})", "convert or download the bundle again") from None
    files = {role: folder / file.path for role, file in manifest.files.items()}
    for role, path in files.items():
        size = path.stat().st_size if path.is_file() else None
        if size != manifest.files[role].bytes:
            state = "is missing" if size is None else f"has {size:,} bytes instead of {manifest.files[role].bytes:,}"
            raise EdgeVqaError(f"{path} {state}", "convert or download the bundle again")
    return Bundle(folder, manifest, files)


@contextlib.contextmanager
def new_folder(output: Path, *, force: bool = False) -> Iterator[Path]:
    """A work folder beside `output`, which takes its place when the block ends well and vanishes when it does not.

    An existing bundle is replaced only with `force`, anything else never. Raises EdgeVqaError.
    """
    if output.exists() and not force:
        raise EdgeVqaError(f"{output} exists already", "choose another folder, or --force to replace it")
    replaceable = (output / MANIFEST).is_file() or (output.is_dir() and not any(output.iterdir()))
    if output.exists() and not replaceable:
        raise EdgeVqaError(f"{output} is not a bundle, and is not replaced", "choose another folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise EdgeVqaError(f"{output} cannot be written ({error.strerror})", "choose another folder") from None
    try:
        yield work
        work.chmod(0o755)
        if output.exists():
            _exchange(work, output)
        else:
            work.rename(output)
    except OSError as error:
        raise EdgeVqaError(
            f"{output} cannot be written ({error.strerror or error})", "free some space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Let two folders change places, in one step where the system can do that: Linux, on file systems of today."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    if rename is not None and rename(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
        return
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(path: Path) -> File:
    """A file as the manifest lists it."""
    return File(path.name, path.stat().st_size, sha256(path))


def verify(bundle: Bundle, *, thorough: bool = False) -> None:
    """Compare every file with its checksum.

    A large bundle is hashed once; after that its sizes and modification times are enough, unless `thorough`.
    """
    stamp = home() / "verified" / hashlib.sha256(str(bundle.folder.resolve()).encode()).hexdigest()
    state = json.dumps(
        {role: [f.sha256, bundle.files[role].stat().st_mtime_ns] for role, f in bundle.manifest.files.items()},
        sort_keys=True,
    )
    large = bundle.bytes > ALWAYS_VERIFIED_BYTES
    if large and not thorough and stamp.is_file() and stamp.read_text() == state:
        return
    for role, file in bundle.manifest.files.items():
        if sha256(bundle.files[role]) != file.sha256:
            raise EdgeVqaError(f"{bundle.files[role]} does not match its checksum", "convert or download the bundle again")
    if large:
        try:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(state)
        except OSError:
            pass  # a read-only home only costs the next start some seconds
