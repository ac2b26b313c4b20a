"""Bundles: one folder that holds everything a device needs, described by `bundle.json`.

Reads, checks and finds bundles. Nothing native is loaded here, and nothing is believed before it is checked: unknown keys,
wrong types, sizes and checksums are refused by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edge_vqa import untrusted
from edge_vqa.errors import EdgeVqaError
from edge_vqa.visible import as_json, visible

SCHEMA = 1
MANIFEST = "bundle.json"
MOST_BYTES = 4 * 2**20  # of it
EMBEDDED = Path(__file__).parent / "bundles"
DEFAULT = "mini"
ALWAYS_VERIFIED_BYTES = 64 * 2**20  # a bundle up to this size is hashed at every load: some 30 ms
BACKENDS = {"mtmd": "vision", "onnx": "vision_onnx"}  # what runs a vision tower -> role of its file
TOWERS = tuple(BACKENDS.values())
ROLES = ("lm", *TOWERS, "selector", "selector_early")
HISTOGRAM = 20  # equal bins of the confidence, from 0 to 1
METHODS = ("tiles", "crop", "dynamic", "native")  # of preprocessing


@dataclass(frozen=True)
class File:
    """One file of a bundle: name inside the folder, size, checksum."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    checkpoint: str
    revision: str = ""


@dataclass(frozen=True)
class Quantisation:
    """How the LM's weights are stored: method (`rtn`), type (`q4_k_m`), mean bits per weight; and the vision tower's type."""

    method: str
    type: str
    bits_per_weight: float
    vision_type: str
    calibration: str | None = None


@dataclass(frozen=True)
class Prompt:
    """The model's own chat template, rendered once by the converter around a picture and a question.

    `before` ends where the picture begins and `between` begins where it ends; `question` is the plain text around
    `{question}`, in which nothing is read as a special token; `after` ends where the answer begins. `unicode` names the
    normal form that the tokenizer puts text into (`NFC`), if any. The template itself stays in the gguf;
    `template_sha256` ties them.
    """

    before: str
    question: str
    after: str
    template_sha256: str
    instruction: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 32
    detail: str = "low"
    between: str = ""
    unicode: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the pixels that the vision tower takes, and how many LM tokens they make.

    - `tiles` (Idefics3, SmolVLM): one square of side `tile` at low detail; at high detail also the tiles of the picture
      scaled so that its longer side is `longest_edge`. Each makes `tile_tokens`.
    - `crop` (LLaVA-1.5): the shorter side scaled to `tile`, then the central square, which makes `tile_tokens`.
    - `dynamic` (Qwen2-VL): both sides multiples of `tile`, each `tile` x `tile` pixels one token; at least `min_tokens`, at
      most `low_tokens` or `high_tokens`.
    - `native` (anything else): llama.cpp's own steps, on a picture whose longer side is at most `tile` or `longest_edge`.
    """

    tile: int
    longest_edge: int
    tile_tokens: int
    resample: str = "lanczos"
    method: str = "tiles"
    min_tokens: int = 0
    low_tokens: int = 0
    high_tokens: int = 0

    def tokens(self, width: int, height: int) -> int:
        """LM tokens of so many pixels, of a size that the tower takes; not for `native`."""
        return self.tile_tokens if self.method != "dynamic" else (width // self.tile) * (height // self.tile)

    @property
    def most_tokens(self) -> int:
        """LM tokens of the largest picture, marker tokens included; for `native`, a guess."""
        if self.method == "crop":
            return self.tile_tokens
        if self.method == "dynamic":
            return self.high_tokens
        if self.method == "native":
            return 3072
        side = math.ceil(self.longest_edge / self.tile)
        return (side * side + 1) * (self.tile_tokens + 4)


@dataclass(frozen=True)
class Runtime:
    """The build, and the role of the vision tower, that the bundle's traces came from; scores of a Selector hold for them."""

    llama_cpp_python: str
    preprocessing: Preprocessing
    tower: str = "vision"


@dataclass(frozen=True)
class SelectorInfo:
    """What the Selector was made for: feature schema, dimension of each input, fingerprints of the LM and the vision file."""

    schema: int
    dimensions: dict[str, int]
    lm_sha256: str
    vision_sha256: str


@dataclass(frozen=True)
class Temperature:
    """Parameters of the calibrated MaxProb, sigmoid(scale * logit(MaxProb) + bias)."""

    scale: float
    bias: float


@dataclass(frozen=True)
class Calibration:
    """What the calibration questions of a confidence method looked like: how many of them in each bin of the confidence."""

    confidence: str
    data: str
    n: int
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with the risk it was chosen for. `threshold` is None when no threshold keeps the risk: abstain always."""

    risk: float
    delta: float
    threshold: float | None
    method: str
    n: int
    data: str
    coverage: float
    confidence: str = "selector"
    default: bool = False


@dataclass(frozen=True)
class Cascade:
    """Operating points of two looks at a question, the second one, at `detail`, only where the first abstains. One threshold
    for both; the risk is that of all answers together. `pair` says whose looks: see `Bundle.pair`."""

    pair: str
    detail: str
    operating_points: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Measured:
    """One measured figure: what, on which data, when, with its 95 % interval where it is a proportion."""

    metric: str
    value: float
    data: str
    n: int
    date: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Manifest:
    """`bundle.json`."""

    schema: int
    name: str
    version: str
    licence: str
    description: str
    source: Source
    architecture: str
    files: dict[str, File]
    quantisation: Quantisation
    prompt: Prompt
    runtime: Runtime
    selector: SelectorInfo | None = None
    selector_early: SelectorInfo | None = None
    temperature: Temperature | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    cascades: tuple[Cascade, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    measured: tuple[Measured, ...] = ()

    def points(self, method: str) -> list[OperatingPoint]:
        """Operating points of a confidence method: they hold for no other."""
        return [point for point in self.operating_points if point.confidence == method]

    def default_point(self, method: str) -> OperatingPoint | None:
        return next((point for point in self.points(method) if point.default), None)

    def cascade(self, pair: str, detail: str) -> Cascade | None:
        """Operating points together with a second look."""
        return next((c for c in self.cascades if (c.pair, c.detail) == (pair, detail)), None)

    @property
    def selectors(self) -> dict[str, SelectorInfo]:
        """By the role of its file."""
        both = {"selector": self.selector, "selector_early": self.selector_early}
        return {role: info for role, info in both.items() if info is not None}


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its folder and its checked manifest."""

    folder: Path
    manifest: Manifest
    files: dict[str, Path] = field(default_factory=dict)

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


def typed(value: Any, kind: Any, where: str) -> Any:
    """Build `kind` (a dataclass, dict, tuple, union or plain type) from decoded JSON; refuse what does not fit, by name."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else typed(value, next(a for a in args if a is not type(None)), where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object")
        fields = {f.name: f for f in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in fields:
                raise ValueError(f"unknown key {where}.{key}".replace(" .", " "))
        made = {}
        for name, f in fields.items():
            if name in value:
                made[name] = typed(value[name], hints[name], f"{where}.{name}".lstrip("."))
            elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ValueError(f"missing key {where}.{name}".replace(" .", " "))
        return kind(**made)  # type: ignore[operator]
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object")
        return {key: typed(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        return tuple(typed(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where} must be a {kind.__name__}")
    return value


def check_prompt(prompt: Prompt) -> None:
    """Rules of the prompt that types cannot say. Raises ValueError naming the key at fault."""
    if prompt.question.count("{question}") != 1:
        raise ValueError("prompt.question must hold {question} once")
    if prompt.detail not in ("low", "high"):
        raise ValueError("prompt.detail must be low or high")
    if not 1 <= prompt.max_tokens <= 4096:
        raise ValueError("prompt.max_tokens must lie in 1..4096")
    if prompt.unicode not in ("", "NFC", "NFKC"):
        raise ValueError("prompt.unicode must be NFC, NFKC or empty")


def is_name(name: str) -> bool:
    """Whether a bundle may be called so: a name becomes a part of paths, and is printed."""
    return 0 < len(name) <= 100 and name == Path(name).name == visible(name) and not name.startswith(".")


def name_for(output: Path, name: str | None = None) -> str:
    """The name of a bundle that is made in the folder `output`: `name`, or the folder's. Raises EdgeVqaError."""
    chosen = name if name is not None else output.resolve().name
    if not is_name(chosen):
        raise EdgeVqaError(f"{chosen!r} cannot be a name", "give another with --name, or another folder")
    return chosen


def _check(manifest: Manifest) -> None:
    """Rules that types cannot say."""
    if not is_name(manifest.name):
        raise ValueError(f"{manifest.name[:60]!r} cannot be a name")
    for role, file in manifest.files.items():
        if role not in ROLES:
            raise ValueError(f"files.{role} is none of {', '.join(ROLES)}")
        if file.path != Path(file.path).name or file.path in ("", ".", "..", MANIFEST):
            raise ValueError(f"files.{role}.path must be a plain file name")
    if "lm" not in manifest.files:
        raise ValueError("files.lm is missing")
    if not any(role in manifest.files for role in TOWERS):
        raise ValueError("files.vision is missing")
    if manifest.runtime.tower not in TOWERS or manifest.runtime.tower not in manifest.files:
        raise ValueError("runtime.tower must name a vision tower among the files")
    for role in ("selector", "selector_early"):
        if (role in manifest.files) != (role in manifest.selectors):
            raise ValueError(f"files.{role} and {role} must stand together")
    check_prompt(manifest.prompt)
    pixels = manifest.runtime.preprocessing
    if not (1 <= pixels.tile <= pixels.longest_edge <= 16384 and 1 <= pixels.tile_tokens <= 16384):
        raise ValueError("runtime.preprocessing needs 1 <= tile <= longest_edge <= 16384 and 1 <= tile_tokens <= 16384")
    if pixels.method not in METHODS:
        raise ValueError(f"runtime.preprocessing.method must be one of {', '.join(METHODS)}")
    if pixels.method == "dynamic" and not 1 <= pixels.min_tokens <= pixels.low_tokens <= pixels.high_tokens <= 16384:
        raise ValueError("runtime.preprocessing needs 1 <= min_tokens <= low_tokens <= high_tokens <= 16384")
    if pixels.resample not in ("lanczos", "bicubic", "bilinear"):
        raise ValueError("runtime.preprocessing.resample must be lanczos, bicubic or bilinear")
    _check_points(manifest.operating_points, "operating_points")
    for number, cascade in enumerate(manifest.cascades):
        if cascade.detail not in ("low", "high"):
            raise ValueError(f"cascades[{number}].detail must be low or high")
        _check_points(cascade.operating_points, f"cascades[{number}].operating_points")
    for number, seen in enumerate(manifest.calibration):
        counts = seen.histogram
        if len(counts) != HISTOGRAM or min(counts) < 0 or sum(counts) != seen.n or not seen.n:
            raise ValueError(f"calibration[{number}].histogram must hold {HISTOGRAM} counts that add up to n")


def _check_points(points: tuple[OperatingPoint, ...], where: str) -> None:
    for number, point in enumerate(points):
        if not (0 < point.risk < 1 and 0 < point.delta < 1):
            raise ValueError(f"{where}[{number}]: risk and delta must lie between 0 and 1")
        if point.threshold is not None and not 0 <= point.threshold <= 1:
            raise ValueError(f"{where}[{number}].threshold must lie in 0..1")
    for method in sorted({point.confidence for point in points}):
        if sum(point.default for point in points if point.confidence == method) != 1:
            raise ValueError(f"{where}: exactly one of {method} must be the default")


def parse(text: str) -> Manifest:
    """`bundle.json` -> Manifest. Raises ValueError naming the key at fault."""
    decoded = json.loads(text)
    if isinstance(decoded, dict) and decoded.get("schema") != SCHEMA:
        raise ValueError(f"schema {decoded.get('schema')!r} is not {SCHEMA}, the one this version reads")
    manifest: Manifest = typed(decoded, Manifest, "")
    _check(manifest)
    return manifest


def render(manifest: Manifest) -> str:
    """Manifest -> `bundle.json`."""
    return as_json(dataclasses.asdict(manifest), indent=2) + "\n"


def home() -> Path:
    """Where pulled and converted bundles are looked up by name: `$EDGE_VQA_HOME`, else `~/.cache/edge-vqa`."""
    return Path(os.environ.get("EDGE_VQA_HOME") or Path.home() / ".cache" / "edge-vqa")


def known() -> dict[str, Path]:
    """Names that `find` understands, with their folders; those in `home()` come before the embedded ones."""
    found: dict[str, Path] = {}
    for root in (EMBEDDED, home()):
        if root.is_dir():
            found |= {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}
    return found


def find(name: str | Path | None = None) -> Path:
    """The folder of a bundle, by path or by name; None is the embedded default."""
    wanted = str(name if name is not None else DEFAULT)
    path = Path(wanted)
    if (path / MANIFEST).is_file():
        return path
    names = known()
    if wanted in names:
        return names[wanted]
    if path.is_dir():
        raise EdgeVqaError(f"{wanted} holds no {MANIFEST}", "make a bundle with edge-vqa-convert")
    listing = ", ".join(names) or "none"
    raise EdgeVqaError(f"no bundle {wanted!r}", f"give a folder, or one of the known names: {listing}")


def read(name: str | Path | None = None) -> Bundle:
    """Find a bundle and read its manifest. File sizes are checked, contents are not: see `verify`."""
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


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name and rename it: whoever reads `path` sees the old file or the new one, whole."""
    work = path.with_name(f".{path.name}.tmp")
    try:
        with work.open("wb") as stream:
            write(stream)
        work.replace(path)
    except OSError as error:
        raise EdgeVqaError(f"{path} cannot be written ({error.strerror})", "choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            work.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` for content that is there already."""
    write_whole(path, lambda stream: stream.write(content))


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
