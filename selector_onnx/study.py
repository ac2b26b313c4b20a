"""The study of arXiv 2602.13289 on any set of bundles: what quantisation costs in accuracy and in trust, from ID to OOD.

Bundles of one checkpoint in several precisions answer an ID and an OOD set of questions. Confidences: MaxProb, a Selector
trained on the baseline's answers, a Selector trained on the bundle's own. Mixes of both sets, from 100;0 to 0;100, give each
cell its figures (accuracy, AURC, C@R, ECE, AUROC), with intervals over pictures. All cells of a mix are measured on the same
questions and the same draws, so that differences between any two of them are paired.

Whatever was computed stays in the study's folder under a name that holds a checksum of everything it depends on: traces,
Selectors, cells. A finished one is never computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.border import untrusted
from edge_vqa.border.typed import typed
from edge_vqa.border.whole import write_whole
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import OperatingPoint, llama_cpp_version
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import Floats
from edge_vqa.model import load
from edge_vqa.trust import confidence as methods
from edge_vqa.trust import familiarity as familiarities
from edge_vqa.trust import intervals, trace
from edge_vqa.trust.familiarity import where_familiar
from edge_vqa.trust.intervals import Figure
from edge_vqa.trust.trace import EARLY
from edge_vqa.work import evaluation
from edge_vqa.work import questions as files
from selector_onnx import collect
from selector_onnx import train as training
from selector_onnx.collect import Array, Traces
from selector_onnx.points import UNFAMILIAR
from selector_onnx.threshold import METHOD, select_threshold
from selector_onnx.train import Trained

VERSION = 1  # of what cells and Selectors depend on besides their inputs: raise it when the code's results change
DRAWS = 500
SEED = 0
MAXPROB, BASELINE_SELECTOR, SELECTOR = "maxprob", "selector of the baseline", "selector"
# inputs of the Selector, for the ablation
ABLATIONS: dict[str, tuple[str, ...]] = {
    "all": (),
    "without image": ("first_hidden", "answer_hidden", "first_statistics", "statistics"),
    "without first hidden state": ("image", "answer_hidden", "first_statistics", "statistics"),
    "without answer's hidden state": ("image", "first_hidden", "first_statistics", "statistics"),
    "without statistics": ("image", "first_hidden", "answer_hidden"),
    "statistics only": ("first_statistics", "statistics"),
    "early: image, first token": EARLY,
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Data:
    """Questions files, beside the config. train, exposure: train the Selectors, without and with; calibration: chooses the
    main bundle's thresholds; id, ood: measured on."""

    train: str
    id: str
    ood: str
    exposure: str | None = None
    calibration: str | None = None


@dataclass(frozen=True)
class Entry:
    """A bundle of the study, as figures and tables call it."""

    folder: str
    precision: str
    quantiser: str

    @property
    def label(self) -> str:
        return f"{self.precision} {self.quantiser}".strip()


@dataclass(frozen=True)
class Config:
    """CONFIG.toml. mixes: per cent of OOD questions. main: folder of the bundle that the smaller tables are about. foreign: by
    name, questions files about pictures that it was not made for."""

    name: str
    data: Data
    bundle: tuple[Entry, ...]
    baseline: str
    main: str
    mixes: tuple[int, ...] = (0, 25, 50, 75, 100)
    delta: float = 0.05
    foreign: dict[str, str] = field(default_factory=dict)


def read_config(path: Path) -> Config:
    """Raises EdgeVqaError naming the key at fault."""
    try:
        decoded = tomllib.loads(untrusted.read_text(path))
        config: Config = typed(decoded, Config, "")
    except (OSError, ValueError) as error:
        raise EdgeVqaError(f"{path} is not a study ({error})", "see docs/study.md for an example") from None
    folders = [entry.folder for entry in config.bundle]
    for key, value in (("baseline", config.baseline), ("main", config.main)):
        if value not in folders:
            raise EdgeVqaError(f"{path}: {key} {value!r} is the folder of no bundle", f"use one of {', '.join(folders)}")
    if not config.mixes or not all(0 <= mix <= 100 for mix in config.mixes):
        raise EdgeVqaError(f"{path}: mixes are per cent of OOD questions", "as in mixes = [0, 25, 50, 75, 100]")
    return config


@dataclass(frozen=True, eq=False)
class Cell:
    """Figures of one bundle and confidence on one mix: values by name, and the same for every draw [DRAWS]."""

    values: dict[str, float]
    draws: dict[str, Floats]

    def figure(self, name: str) -> Figure:
        return Figure(self.values[name], *intervals.interval(self.draws[name]))

    def minus(self, other: Cell, name: str) -> Figure:
        """Paired difference."""
        return Figure(self.values[name] - other.values[name], *intervals.interval(self.draws[name] - other.draws[name]))


@dataclass(frozen=True)
class AtMix:
    """What an operating point does on a mix."""

    target: float
    threshold: float | None
    mix: int
    coverage: float
    risk: float


@dataclass(frozen=True, eq=False)
class Study:
    """cells by (bundle folder, confidence, mix). methods, ablation, exposure: of the main bundle, by name and mix, on the ends
    of the mixes. questions: of each mix."""

    config: Config
    questions: int
    cells: dict[tuple[str, str, int], Cell]
    methods: dict[tuple[str, int], Cell] = field(default_factory=dict)
    ablation: dict[tuple[str, int], Cell] = field(default_factory=dict)
    exposure: dict[tuple[str, int], Cell] = field(default_factory=dict)
    points: tuple[AtMix, ...] = ()
    foreign: tuple[evaluation.Foreign, ...] = ()


def run(config: Config, beside: Path, output: Path, *, jobs: int | None = None, progress: Progress) -> Study:
    """Compute what is missing, return all. beside: the folder that the config's paths are relative to."""
    work = Workshop(config, beside, output)
    work.collect_all(jobs or max(1, len(os.sched_getaffinity(0))), progress)
    return work.measure(progress)


class Workshop:
    """Knows where things are kept, and makes those that are not there."""

    def __init__(self, config: Config, beside: Path, output: Path) -> None:
        self.config, self.output = config, output
        self.files = {name: beside / path for name, path in asdict(config.data).items() if path}
        self._foreign = {name: f"foreign{number}" for number, name in enumerate(config.foreign)}
        self.files |= {self._foreign[name]: beside / path for name, path in config.foreign.items()}
        self.bundles = {entry.folder: store.read(beside / entry.folder) for entry in config.bundle}
        self._digests = {name: store.sha256(_there(path)) for name, path in self.files.items()}
        for folder in ("traces", "selectors", "cells"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        self._loaded: dict[Path, Traces] = {}

    # -- traces ---------------------------------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[str, str]]:
        """(bundle, data set) to collect."""
        alone = [name for name in self.files if name == "calibration" or name in self._foreign.values()]
        cells = [(folder, name) for folder in self.bundles for name in self.files if name not in alone]
        return cells + [(self.config.main, name) for name in alone]

    def traces_path(self, folder: str, name: str) -> Path:
        bundle = self.bundles[folder]
        key = _key(*bundle.fingerprint, trace.SCHEMA, llama_cpp_version(), self._digests[name])
        return self.output / "traces" / f"{bundle.folder.name}-{name}-{key}.npz"

    def collect_all(self, jobs: int, progress: Progress) -> None:
        missing = [cell for cell in self.wanted() if not self.traces_path(*cell).is_file()]
        if not missing:
            return
        progress("collecting", 0, len(missing))
        with ProcessPoolExecutor(min(jobs, len(missing)), get_context("spawn")) as pool:
            waiting = [
                pool.submit(_collect, self.bundles[folder].folder, self.files[name], name, self.traces_path(folder, name))
                for folder, name in missing
            ]
            for done, job in enumerate(as_completed(waiting), 1):
                job.result()
                progress("collecting", done, len(missing))

    def traces(self, folder: str, name: str) -> Traces:
        path = self.traces_path(folder, name)
        if path not in self._loaded:
            self._loaded[path] = collect.load(path)
        return self._loaded[path]

    # -- Selectors ------------------------------------------------------------------------------------------------------

    def selector(self, folder: str, *, inputs: Sequence[str] = (), exposure: bool = True) -> Trained:
        """Trained on a bundle's answers, with the data set `exposure` where there is one."""
        names = ["train", "exposure"] if exposure and "exposure" in self.files else ["train"]
        key = _key(VERSION, *(self.traces_path(folder, name).name for name in names), *inputs)
        path = self.output / "selectors" / f"{self.bundles[folder].folder.name}-{key}.npz"
        if not path.is_file():
            fitted = training.train(collect.join([self.traces(folder, name) for name in names]), inputs=inputs or None)
            training.save(fitted.trained, path)
        return training.load(path)

    # -- cells ----------------------------------------------------------------------------------------------------------

    def mixed(self, folder: str, mix: int) -> Traces:
        """The questions of a mix: a nested part of the OOD set and of the ID set, the same for every bundle."""
        whole = {name: self.traces(folder, name) for name in ("id", "ood")}
        n = min(map(len, whole.values()))
        counts = {"ood": round(n * mix / 100), "id": n - round(n * mix / 100)}
        parts = []
        for name, count in counts.items():
            order = np.random.default_rng(SEED).permutation(len(whole[name]))
            parts.append(collect.take(whole[name], order[:count]))
        return collect.join(parts)

    def cell(self, folder: str, confidence: str, mix: int, score: Callable[[Traces], Array]) -> Cell:
        """score: traces -> confidence [n]."""
        sources = [self.traces_path(folder, name).name for name in ("id", "ood")]
        path = self.output / "cells" / f"{_key(VERSION, DRAWS, *sources, confidence, mix)}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                return Cell(
                    json.loads(str(stored["values"])), {name: stored[name] for name in stored.files if name != "values"}
                )
        traces = self.mixed(folder, mix)
        cell = _measured(score(traces).astype(np.float64), traces)
        values = np.array(json.dumps(cell.values))
        write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, values=values, **cell.draws))
        return cell

    def measure(self, progress: Progress) -> Study:
        config, ends = self.config, (min(self.config.mixes), max(self.config.mixes))
        baseline_selector = self.selector(config.baseline)
        cells: dict[tuple[str, str, int], Cell] = {}
        total = len(config.bundle)
        for number, folder in enumerate(self.bundles):
            progress("measuring", number, total)
            scores = {MAXPROB: _maxprob, BASELINE_SELECTOR: _by(baseline_selector), SELECTOR: _by(self.selector(folder))}
            for name, score in scores.items():
                if name == BASELINE_SELECTOR and folder == config.baseline:
                    continue
                for mix in config.mixes:
                    source = config.baseline if name == BASELINE_SELECTOR else folder
                    named = name if name == MAXPROB else f"{name} {self._selector_sources(source)}"
                    cells[folder, name, mix] = self.cell(folder, named, mix, score)
        progress("measuring", total, total)
        study = Study(config, len(self.mixed(config.main, ends[0])), cells)
        return self._small_tables(study, ends, progress)

    def _selector_sources(self, folder: str) -> str:
        return " ".join(self.traces_path(folder, name).name for name in ("train", "exposure") if name in self.files)

    def _small_tables(self, study: Study, ends: tuple[int, int], progress: Progress) -> Study:
        """All about the main bundle: every confidence method, ablation, exposure, operating points."""
        main = self.config.main
        sources = self._selector_sources(main)
        learned = collect.join([self.traces(main, n) for n in ("train", "exposure") if n in self.files])
        scaled = methods.TemperatureScaling(training.fit_temperature(learned))
        by_method: dict[str, Callable[[Traces], Array]] = {
            **{name: _by(method()) for name, method in methods.INTRINSIC.items()},
            methods.TemperatureScaling.name: _by(scaled),
        }
        found: dict[tuple[str, int], Cell] = {}
        for name, score in by_method.items():
            for mix in ends:
                found[name, mix] = self.cell(main, f"{name} {sources}", mix, score)
        ablation: dict[tuple[str, int], Cell] = {}
        for number, (name, inputs) in enumerate(ABLATIONS.items()):
            progress("ablation", number, len(ABLATIONS))
            score = _by(self.selector(main, inputs=inputs))
            for mix in ends:
                ablation[name, mix] = self.cell(main, f"{sources} {inputs}", mix, score)
        progress("ablation", len(ABLATIONS), len(ABLATIONS))
        found |= {(SELECTOR, mix): ablation["all", mix] for mix in ends}
        found |= {(methods.SelectorEarly.name, mix): ablation["early: image, first token", mix] for mix in ends}
        exposure: dict[tuple[str, int], Cell] = {}
        if "exposure" in self.files:
            plain = _by(self.selector(main, exposure=False))
            for mix in ends:
                exposure["with", mix] = ablation["all", mix]
                exposure["without", mix] = self.cell(main, f"plain {sources}", mix, plain)
        return replace(
            study, methods=found, ablation=ablation, exposure=exposure, points=tuple(self._points()), foreign=self._strangers()
        )

    def _strangers(self) -> tuple[evaluation.Foreign, ...]:
        """What the main bundle's gate makes of foreign sets, with its own familiarity where it has one, at 5 % risk."""
        if "calibration" not in self.files or not self._foreign:
            return ()
        main, score = self.config.main, _by(self.selector(self.config.main))
        estimate = familiarities.of(self.bundles[main])

        def judged(traces: Traces) -> evaluation.Judged:
            familiarity = None if estimate is None else estimate.score_features(traces.features).astype(np.float64)
            confidence = {SELECTOR: score(traces).astype(np.float64)}
            return evaluation.Judged(traces.accuracy.astype(np.float64), traces.picture.tolist(), confidence, familiarity)

        known = judged(self.traces(main, "calibration"))
        limit = None if known.familiarity is None else UNFAMILIAR
        kept = where_familiar(known.confidence[SELECTOR], known.familiarity, UNFAMILIAR)
        threshold = select_threshold(kept, known.accuracy, 0.05, self.config.delta, calibrated=True)
        point = OperatingPoint(0.05, self.config.delta, threshold, METHOD, len(kept), "calibration", 0.0, familiarity=limit)
        sets = ((name, judged(self.traces(main, kept_as))) for name, kept_as in self._foreign.items())
        return tuple(evaluation.foreign(name, one, known, point) for name, one in sets)

    def _points(self) -> list[AtMix]:
        if "calibration" not in self.files:
            return []
        main = self.config.main
        score, chosen = _by(self.selector(main)), self.traces(main, "calibration")
        found = []
        for risk in evaluation.RISKS:
            threshold = select_threshold(score(chosen), chosen.accuracy, risk, self.config.delta, calibrated=True)
            for mix in self.config.mixes:
                traces = self.mixed(main, mix)
                answered = np.zeros(len(traces), bool) if threshold is None else score(traces) >= threshold
                wrong = float((1 - traces.accuracy[answered]).mean()) if answered.any() else float("nan")
                found.append(AtMix(risk, threshold, mix, float(answered.mean()), wrong))
        return found


def _measured(confidence: Floats, traces: Traces) -> Cell:
    accuracy = traces.accuracy.astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    rng = np.random.default_rng(SEED)

    def every(rows: Any) -> dict[str, float]:
        return evaluation.figures(confidence[rows], accuracy[rows]) | {"accuracy": float(accuracy[rows].mean())}

    drawn = [every(np.repeat(order, times[order])) for times in intervals.draws(traces.picture, DRAWS, rng)]
    values = every(order)
    return Cell(values, {name: np.array([draw[name] for draw in drawn]) for name in values})


def _collect(bundle: Path, questions: Path, name: str, path: Path) -> None:
    with load(bundle, confidence="maxprob", vision=store.read(bundle).backend, threads=1) as model:
        collect.collect_into(path, model, files.read(questions, labelled=True), name)


def _maxprob(traces: Traces) -> Array:
    return traces.maxprob


def _by(method: Trained | methods.Confidence) -> Callable[[Traces], Array]:
    return lambda traces: method.score_features(traces.features)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise EdgeVqaError(f"{path} does not exist", "paths in the study's config are relative to it")
    return path


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
