"""What `bundle.json` says of a bundle, and the rules that it keeps: unknown keys and wrong values are refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.border.typed import typed
from edge_vqa.errors import EdgeVqaError
from edge_vqa.visible import as_json, visible

SCHEMA = 1
MANIFEST = "bundle.json"
BACKENDS = {"mtmd": "vision", "onnx": "vision_onnx"}  # what runs a vision tower -> role of its file
TOWERS = tuple(BACKENDS.values())
ESTIMATORS = ("selector", "selector_early", "familiarity")  # roles of small graphs over the features of a trace
ROLES = ("lm", *TOWERS, *ESTIMATORS)
HISTOGRAM = 20  # equal bins of the confidence, from 0 to 1
METHODS = ("tiles", "crop", "square", "pad", "grid", "whole", "dynamic", "longest", "native")  # of preprocessing


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
class Thinking:
    """How a model thinks before it answers: between the tokens `begin` and `end`, for at most `most` tokens, then it is ended
    for it. begun: its prompt ends with `begin` already. skip: the prompt's `after` with which it does not think, if any."""

    begin: str
    end: str
    begun: bool
    skip: str | None = None
    most: int = 512


@dataclass(frozen=True)
class Prompt:
    """The model's own chat template, rendered once by the converter around a picture and a question.

    `before` ends where the picture begins and `between` begins where it ends; `question` is the plain text around
    `{question}`, in which nothing is read as a special token; `after` ends where the answer begins. `joint` is what stands
    between two pictures of one question; None where the model takes one. `unicode` names the normal form that the tokenizer
    puts text into (`NFC`), if any. The template itself stays in the gguf;
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
    joint: str | None = None
    thinking: Thinking | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the pixels that the vision tower takes, and how many LM tokens they make.

    - `tiles` (Idefics3, SmolVLM): one square of side `tile` at low detail; at high detail also the tiles of the picture
      scaled so that its longer side is `longest_edge`. Each makes `tile_tokens`.
    - `crop` (LLaVA-1.5): the shorter side scaled to `tile`, then the central square, which makes `tile_tokens`.
    - `square` (Gemma 3): the whole picture scaled to a square of side `tile`, which makes `tile_tokens`.
    - `pad` (Janus): the whole picture scaled into such a square, in grey.
    - `grid` (InternVL): as `square` at low detail; at high also, before it, the picture scaled to a grid of such squares of
      about its shape: at least `min_tokens` of them, and at most `high_tokens` tokens in all.
    - `whole` (towers of our own): the whole picture as one square of side `tile`, which makes `tile_tokens`.
    - `dynamic` (Qwen2-VL): both sides multiples of `tile`, each `tile` x `tile` pixels one token; at least `min_tokens`, at
      most `low_tokens` or `high_tokens`. `row_ends` tokens more behind each row but the last (Pixtral).
    - `longest` (LightOnOCR): as `dynamic`, but the longer side is `longest_edge`.
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
    row_ends: int = 0

    def tokens(self, width: int, height: int) -> int:
        """LM tokens of so many pixels, of a size that the tower takes; not for `native`."""
        if self.method not in ("dynamic", "longest"):
            return self.tile_tokens
        columns, rows = width // self.tile, height // self.tile
        return columns * rows + self.row_ends * (rows - 1)

    @property
    def most_tokens(self) -> int:
        """LM tokens of the largest picture, marker tokens included; for `native`, a guess."""
        if self.method in ("crop", "square", "pad", "whole"):
            return self.tile_tokens
        if self.method in ("dynamic", "longest", "grid"):  # a picture may be one column
            return self.high_tokens * (1 + self.row_ends)
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
class EstimatorInfo:
    """What a Selector, or familiarity, was made for: feature schema, dimension of each input, fingerprints of the LM and the
    vision file."""

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
    """What the calibration questions of a confidence method looked like: how many of them in each bin of the confidence, those
    about unfamiliar pictures in the first."""

    confidence: str
    data: str
    n: int
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Foreign:
    """With probability 1 - delta at most `risk` of the answers are wrong where at most a share `share` of the questions is
    about foreign pictures that mislead no more than the worst set seen, `data`: of its n questions, and any like them, at
    most a share `wrong` is answered wrongly."""

    share: float
    risk: float
    delta: float
    wrong: float
    data: str
    n: int


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with the risk it was chosen for. `threshold` is None when no threshold keeps the risk: abstain always.

    familiarity: the least that is answered about; None where nothing is known of it. margin: of the threshold, how much is
    there for other processors. foreign: what holds where some questions are about pictures unlike those of calibration.
    """

    risk: float
    delta: float
    threshold: float | None
    method: str
    n: int
    data: str
    coverage: float
    confidence: str = "selector"
    default: bool = False
    familiarity: float | None = None
    margin: float = 0.0
    foreign: Foreign | None = None


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
    selector: EstimatorInfo | None = None
    selector_early: EstimatorInfo | None = None
    familiarity: EstimatorInfo | None = None
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
    def estimators(self) -> dict[str, EstimatorInfo]:
        """By the role of its file."""
        every = {role: getattr(self, role) for role in ESTIMATORS}
        return {role: info for role, info in every.items() if info is not None}


def llama_cpp_version() -> str:
    """Version of the installed llama-cpp-python, which fixes the llama.cpp build."""
    from importlib.metadata import version

    return version("llama-cpp-python")


def check_prompt(prompt: Prompt) -> None:
    """Rules of the prompt that types cannot say. Raises ValueError naming the key at fault."""
    if prompt.question.count("{question}") != 1:
        raise ValueError("prompt.question must hold {question} once")
    if prompt.detail not in ("low", "high"):
        raise ValueError("prompt.detail must be low or high")
    if not 1 <= prompt.max_tokens <= 4096:
        raise ValueError("prompt.max_tokens must lie in 1..4096")
    if prompt.thinking is not None and not 1 <= prompt.thinking.most <= 16384:
        raise ValueError("prompt.thinking.most must lie in 1..16384")
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
    for role in ESTIMATORS:
        if (role in manifest.files) != (role in manifest.estimators):
            raise ValueError(f"files.{role} and {role} must stand together")
    check_prompt(manifest.prompt)
    pixels = manifest.runtime.preprocessing
    if not (1 <= pixels.tile <= pixels.longest_edge <= 16384 and 1 <= pixels.tile_tokens <= 16384):
        raise ValueError("runtime.preprocessing needs 1 <= tile <= longest_edge <= 16384 and 1 <= tile_tokens <= 16384")
    if pixels.method not in METHODS:
        raise ValueError(f"runtime.preprocessing.method must be one of {', '.join(METHODS)}")
    if pixels.method == "longest" and (pixels.longest_edge % pixels.tile or pixels.low_tokens > 16384):
        raise ValueError("runtime.preprocessing needs longest_edge a multiple of tile")
    if pixels.method == "dynamic" and not 1 <= pixels.min_tokens <= pixels.low_tokens <= pixels.high_tokens <= 16384:
        raise ValueError("runtime.preprocessing needs 1 <= min_tokens <= low_tokens <= high_tokens <= 16384")
    if pixels.row_ends not in (0, 1):
        raise ValueError("runtime.preprocessing.row_ends must be 0 or 1")
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
        if point.familiarity is not None and not 0 <= point.familiarity <= 1:
            raise ValueError(f"{where}[{number}].familiarity must lie in 0..1")
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
    """Manifest -> `bundle.json`; what few models have is left out where this one has not, for older versions to read."""
    data = dataclasses.asdict(manifest)
    for part, key in (
        (data["prompt"], "joint"),
        (data["prompt"], "thinking"),
        (data["runtime"]["preprocessing"], "row_ends"),
    ):
        if part[key] in (None, 0):
            del part[key]
    return as_json(data, indent=2) + "\n"
