"""Measures a bundle on this device, step by step.

A report is a JSON file (docs/benchmarking.md describes it) that people can post and compare.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from edge_vqa import __version__, visible
from edge_vqa.border import untrusted
from edge_vqa.border.typed import typed
from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import llama_cpp_version
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import sensors
from edge_vqa.device.profile import cores, detect, memory_bytes
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.threads import Threads
from edge_vqa.model import Model
from edge_vqa.native import bindings
from edge_vqa.pictures.open import Picture
from edge_vqa.session.options import Options
from edge_vqa.vision.cache import key_of

SCHEMA = 1
QUESTIONS = ("what is this?", "is it an animal?")
SIZE = (480, 640, 3)  # of the picture, noise: its speed is that of any
PROMPT, ANSWER = 256, 32  # tokens that are prefilled and decoded for tokens a second
MOST_TOKENS = 8  # of an answer
COLD = 5  # processes started, at most
# Starts a process from a small one, as the peak of a process counts that of the process it began in; tells seconds and peak
LAUNCH = """
import resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status not in (0, 3))
"""
Progress = Callable[[str, int, int], None]  # step, done, total

# name -> what it is, its unit, and whether more is better
FIGURES = {
    "cold_start": ("a process from start to verdict", "s", False),
    "load": ("loading the bundle", "s", False),
    "image_encode": ("picture: encode", "s", False),
    "image_prefill": ("picture: prefill", "s", False),
    "first_token": ("first token, new picture", "s", False),
    "first_question": ("first question on a picture", "s", False),
    "second_question": ("second question on it", "s", False),
    "gate": ("gate", "s", False),
    "prefill": (f"prefill of {PROMPT} tokens", "tokens/s", True),
    "decode": (f"decoding of {ANSWER} tokens", "tokens/s", True),
    "peak_memory": ("peak memory of a process", "MB", False),
    "energy": ("energy of a question", "J", False),
}


@dataclass(frozen=True)
class Figure:
    """Of `n` values: median and 90th percentile, for what is better when larger the 10th."""

    p50: float
    p90: float
    n: int


@dataclass(frozen=True)
class Machine:
    """What was measured on. llama_cpp: CPU features that llama.cpp was compiled with."""

    device: str
    profile: str
    cpu: str
    cores: int
    memory_mb: int | None
    system: str
    python: str
    llama_cpp_python: str
    onnxruntime: str
    llama_cpp: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """The bundle, and how it was run."""

    name: str
    version: str
    megabytes: float
    quantisation: str
    vision: str
    threads: Threads
    context: int
    kv_type: str
    detail: str
    image_tokens: int | None


@dataclass(frozen=True)
class Board:
    """What the board said of itself; None where it has no such sensor."""

    temperature_start: float | None = None
    temperature_end: float | None = None
    throttled: tuple[str, ...] | None = None
    throttle_events: int | None = None
    power_mode: str | None = None
    energy_source: str | None = None
    busy_cores: float | None = None  # by other programs, before the start


@dataclass(frozen=True)
class Report:
    """A result. partial: it was interrupted, and some figures are of fewer repetitions, or missing."""

    schema: int
    edge_vqa: str
    date: str
    partial: bool
    machine: Machine
    subject: Subject
    figures: dict[str, Figure]
    board: Board


class Bench:
    """Measures one bundle. `report()` says what is known so far, also after an interruption."""

    def __init__(self, bundle: Bundle, options: Options, *, detail: str | None = None, repeat: int = 10) -> None:
        if repeat < 1:
            raise EdgeVqaError(f"{repeat} repetitions measure nothing", "give --repeat 1 or more")
        if detail == "auto":
            raise EdgeVqaError("automatic detail takes a time that depends on the picture", "give --detail low or high")
        self._bundle, self._options, self._repeat = bundle, options, repeat
        self._detail = detail or bundle.manifest.prompt.detail
        self._values: dict[str, list[float]] = defaultdict(list)
        self._board = Board(temperature_start=sensors.temperature(), power_mode=sensors.power_mode())
        self._throttling = sensors.throttling()
        manifest = bundle.manifest
        self._subject = Subject(
            manifest.name,
            manifest.version,
            round(bundle.bytes / 1e6, 2),
            f"{manifest.quantisation.method}:{manifest.quantisation.type}",
            vision="",  # from here on: as long as nothing is loaded
            threads=Threads.of(1),
            context=0,
            kv_type="",
            detail=self._detail,
            image_tokens=None,
        )
        self._whole = False

    def run(self, progress: Progress = lambda step, done, total: None) -> Report:
        """Measure everything; raises EdgeVqaError for a bundle that does not run."""
        self._board = replace(self._board, busy_cores=sensors.busy())
        with tempfile.TemporaryDirectory() as name:
            pictures = noise()
            times = min(self._repeat, COLD)
            for number in range(times + 1):
                progress("cold starts", number, times + 1)
                file = Path(name) / "picture.png"
                Image.fromarray(next(pictures).rgb).save(file)
                seconds, peak = self._cold(file)
                if number:  # the first brings the files into memory
                    self._values["cold_start"].append(seconds)
                    self._values["peak_memory"].append(peak)
            progress("cold starts", times + 1, times + 1)
        with Model(self._bundle, self._options) as model:
            self._subject = replace(
                self._subject, vision=model.backend, threads=model.threads, context=model.n_ctx, kv_type=model.kv_type
            )
            self._values["load"].append(model.load_s)
            meter = sensors.Meter()
            self._board = replace(self._board, energy_source=meter.source)
            self._question(model, next(pictures), keep=False)
            meter.start()
            for number in range(self._repeat):
                progress("questions", number, self._repeat)
                self._question(model, next(pictures))
            joules = meter.stop()
            progress("questions", self._repeat, self._repeat)
            if joules is not None:
                self._values["energy"].append(joules / (len(QUESTIONS) * self._repeat))
            prompt = min(PROMPT, (model.n_ctx - ANSWER) // 2)
            model.speed(prompt, 1)
            for number in range(self._repeat):
                progress("tokens", number, self._repeat)
                prefill, decode = model.speed(prompt, ANSWER)
                self._values["prefill"].append(prompt / prefill)
                self._values["decode"].append(ANSWER / decode)
            progress("tokens", self._repeat, self._repeat)
        self._whole = True
        return self.report()

    def report(self) -> Report:
        """Everything measured so far."""
        figures = {}
        for name, values in self._values.items():
            p50, p90 = np.quantile(values, (0.5, 0.1 if FIGURES[name][2] else 0.9))
            figures[name] = Figure(float(f"{p50:.5g}"), float(f"{p90:.5g}"), len(values))
        before, after = self._throttling, sensors.throttling()
        board = replace(
            self._board,
            temperature_end=sensors.temperature(),
            throttled=tuple(dict.fromkeys((*(before.now if before else ()), *after.now))) if after else None,
            throttle_events=max(0, after.events - before.events) if before and after else None,
        )
        date = datetime.now(UTC).isoformat(timespec="seconds")
        ordered = {name: figures[name] for name in FIGURES if name in figures}
        return Report(SCHEMA, __version__, date, not self._whole, machine(), self._subject, ordered, board)

    def _cold(self, picture: Path) -> tuple[float, float]:
        """Seconds and peak resident megabytes of a process that answers one question."""
        options = self._options
        command = [sys.executable, "-m", "edge_vqa", "ask", str(picture), QUESTIONS[0], "--model", str(self._bundle.folder)]
        command += ["--detail", self._detail, "--max-tokens", str(MOST_TOKENS)]
        given = {"device": options.device, "vision": options.vision, "context": options.context, "kv-type": options.kv_type}
        given["threads"] = options.threads if isinstance(options.threads, int) else None
        for name, value in given.items():
            command += [f"--{name}", str(value)] if value is not None else []
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["nothing said"]
            raise EdgeVqaError(f"edge-vqa ask failed ({lines[-1]})", "try it by hand")
        seconds, peak = map(float, done.stdout.split())
        return seconds, peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)

    def _question(self, model: Model, picture: Picture, *, keep: bool = True) -> None:
        began = time.perf_counter()
        model.encode(key_of(picture, self._detail), picture, self._detail)
        encoded = time.perf_counter()
        first = model.ask(picture, QUESTIONS[0], detail=self._detail, max_tokens=MOST_TOKENS)
        answered = time.perf_counter()
        model.ask(picture, QUESTIONS[1], detail=self._detail, max_tokens=MOST_TOKENS)
        ended = time.perf_counter()
        spent = first.timings
        self._subject = replace(self._subject, image_tokens=first.trace.image_tokens)
        if not keep:
            return
        for name, seconds in {
            "image_encode": encoded - began,
            "image_prefill": spent.image_s,  # the picture is encoded already
            "first_token": encoded - began + spent.image_s + spent.prompt_s,
            "first_question": answered - began,
            "second_question": ended - answered,
            "gate": spent.gate_s,
        }.items():
            self._values[name].append(seconds)


def machine() -> Machine:
    """This machine, as a report describes it."""
    from importlib.metadata import version

    found, memory = detect(), memory_bytes()
    return Machine(
        found.model,
        found.profile.name,
        found.cpu,
        cores(),
        memory[0] // 10**6 if memory else None,
        f"{platform.system()} {platform.machine()}",
        platform.python_version(),
        llama_cpp_version(),
        version("onnxruntime"),
        tuple(sorted(bindings.cpu_features())),
    )


def save(report: Report, path: Path | None = None) -> Path:
    """Write a report; without a path, below `$EDGE_VQA_HOME/bench`, named after time and bundle."""
    if path is None:
        stamp = report.date.replace(":", "").replace("+0000", "Z")
        path = store.home() / "bench" / f"{stamp}-{report.subject.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, as_json(report).encode())
    return path


def as_json(report: Report) -> str:
    return visible.as_json(asdict(report), indent=2) + "\n"


def read(path: Path) -> Report:
    """A report of another run, perhaps of another machine. Raises EdgeVqaError for anything else."""
    try:
        content = json.loads(untrusted.read_text(path))
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise EdgeVqaError(f"{path} is no result of this version (schema {schema!r}, not {SCHEMA})", "measure again")
        report: Report = typed(content, Report, "")
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeVqaError(f"{path} is no result of edge-vqa bench ({error})", "give a file that it wrote") from None
    for name, figure in report.figures.items():
        if name not in FIGURES or not (math.isfinite(figure.p50) and math.isfinite(figure.p90) and figure.p50 >= 0):
            raise EdgeVqaError(f"{path} holds a figure {name} that cannot be", "measure again")
    return report


def noise() -> Iterator[Picture]:
    """Pictures without end."""
    rng = np.random.default_rng(0)
    while True:  # another one each time: no cache helps
        yield Picture(rng.integers(0, 256, SIZE, np.uint8))
