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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.border.whole import write_whole
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import OperatingPoint, llama_cpp_version
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import Floats
from edge_vqa.trust import confidence as methods
from edge_vqa.trust import familiarity as familiarities
from edge_vqa.trust import intervals, trace
from edge_vqa.trust.familiarity import where_familiar
from edge_vqa.trust.intervals import Figure
from edge_vqa.trust.trace import EARLY
from edge_vqa.work import evaluation
from selector_onnx import collect, several
from selector_onnx import train as training
from selector_onnx.collect import Array, Traces
from selector_onnx.points import UNFAMILIAR
from selector_onnx.several import end_with_parent
from selector_onnx.study_config import Config, Entry, Mix
from selector_onnx.threshold import METHOD, select_threshold
from selector_onnx.train import Trained

VERSION = 2  # of what cells and Selectors depend on besides their inputs: raise it when the code's results change
DRAWS = 500
SEED = 0
MAXPROB, TEMPERATURE, BASELINE_SELECTOR, SELECTOR = "maxprob", "temperature", "selector of the baseline", "selector"
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
Progress = Callable[[str, int, int | None], None]


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
class Scorer:
    """A confidence: a method, and what it learned from: answers of the bundle `of`, with or without the data set `exposure`; by
    `inputs` of a Selector (default: all). key: of all that its cells depend on, besides what they score."""

    key: str
    method: str
    of: str = ""
    inputs: tuple[str, ...] = ()
    exposure: bool = True


@dataclass(frozen=True)
class AtMix:
    """What an operating point does on a mix."""

    target: float
    threshold: float | None
    mix: Mix
    coverage: float
    risk: float


@dataclass(frozen=True, eq=False)
class Study:
    """cells by (bundle folder, confidence, mix). methods, ablation, exposure: of the main bundle, by name and mix, on the ends
    of the mixes. questions: of each mix."""

    config: Config
    questions: dict[Mix, int]
    cells: dict[tuple[str, str, Mix], Cell]
    methods: dict[tuple[str, Mix], Cell] = field(default_factory=dict)
    ablation: dict[tuple[str, Mix], Cell] = field(default_factory=dict)
    exposure: dict[tuple[str, Mix], Cell] = field(default_factory=dict)
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
        self.files = {name: beside / path for name, path in asdict(config.data).items() if path and name != "ood"}
        self._ood = {name: f"ood{number or ''}" for number, name in enumerate(config.sets)}
        self.files |= {self._ood[name]: beside / path for name, path in config.sets.items()}
        self._foreign = {name: f"foreign{number}" for number, name in enumerate(config.foreign)}
        self.files |= {self._foreign[name]: beside / path for name, path in config.foreign.items()}
        self.bundles = {entry.folder: store.read(beside / entry.folder) for entry in config.bundle}
        self._digests = {name: store.sha256(_there(path)) for name, path in self.files.items()}
        for folder in ("traces", "selectors", "cells"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        self._loaded: dict[Path, Traces] = {}
        self._scores: dict[Scorer, Callable[[Traces], Array]] = {}

    # -- traces ---------------------------------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[str, str]]:
        """(bundle, data set) to collect."""
        alone = [name for name in self.files if name == "calibration" or name in self._foreign.values()]
        own = {entry.folder: entry.selector for entry in self.config.bundle}
        cells = [
            (folder, name)
            for folder in self.bundles
            for name in self.files
            if name not in alone and (own[folder] or name not in ("train", "exposure"))
        ]
        return cells + [(self.config.main, name) for name in alone]

    def traces_path(self, folder: str, name: str) -> Path:
        bundle = self.bundles[folder]
        key = _key(*bundle.fingerprint, trace.SCHEMA, llama_cpp_version(), self._digests[name])
        return self.output / "traces" / f"{bundle.folder.name}-{name}-{key}.npz"

    def uncollected(self) -> dict[str, dict[str, Path]]:
        """Traces that are not there: by bundle and data set, where they go."""
        missing: dict[str, dict[str, Path]] = {}
        for folder, name in self.wanted():
            if not (path := self.traces_path(folder, name)).is_file():
                missing.setdefault(folder, {})[name] = path
        return missing

    def collect_all(self, jobs: int, progress: Progress) -> None:
        """What is missing, a bundle at a time in each process: a picture that several sets ask about is encoded once."""
        missing = self.uncollected()
        if not missing:
            return
        progress("collecting", 0, len(missing))
        with ProcessPoolExecutor(min(jobs, len(missing)), get_context("spawn"), end_with_parent) as pool:
            waiting = [
                pool.submit(several.collect, self.bundles[folder].folder, {name: self.files[name] for name in paths}, paths)
                for folder, paths in missing.items()
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

    def selector(self, folder: str, inputs: Sequence[str] = (), exposure: bool = True) -> Trained:
        """Trained on a bundle's answers, with the data set `exposure` where there is one."""
        path = self.selector_path(folder, inputs, exposure)
        if not path.is_file():
            names = self._taught(exposure)
            fitted = training.train(collect.join([self.traces(folder, name) for name in names]), inputs=inputs or None)
            training.save(fitted.trained, path)
        return training.load(path)

    def selector_path(self, folder: str, inputs: Sequence[str], exposure: bool) -> Path:
        key = _key(VERSION, *(self.traces_path(folder, name).name for name in self._taught(exposure)), *inputs)
        return self.output / "selectors" / f"{self.bundles[folder].folder.name}-{key}.npz"

    def _taught(self, exposure: bool = True) -> list[str]:
        """Data sets that a confidence learns from."""
        return ["train", "exposure"] if exposure and "exposure" in self.files else ["train"]

    def _sources(self, folder: str) -> str:
        return " ".join(self.traces_path(folder, name).name for name in self._taught())

    # -- confidences ----------------------------------------------------------------------------------------------------

    def scorers(self, entry: Entry) -> dict[str, Scorer]:
        """Of the large table, by name."""
        baseline = self.config.baseline
        own = entry.folder if entry.selector else baseline
        found = {
            MAXPROB: Scorer(MAXPROB, MAXPROB),
            TEMPERATURE: Scorer(f"{TEMPERATURE} {self._sources(own)}", TEMPERATURE, own),
        }
        if entry.selector:
            found[SELECTOR] = Scorer(f"{SELECTOR} {self._sources(own)}", SELECTOR, own)
        if entry.folder != baseline:
            found[BASELINE_SELECTOR] = Scorer(f"{SELECTOR} {self._sources(baseline)}", SELECTOR, baseline)
        return found

    def small(self) -> dict[str, dict[str, Scorer]]:
        """Of the small tables about the main bundle, by table and name."""
        main, sources = self.config.main, self._sources(self.config.main)
        found = {name: Scorer(f"{name} {sources}", name) for name in methods.INTRINSIC}
        found[TEMPERATURE] = Scorer(f"{TEMPERATURE} {sources}", TEMPERATURE, main)
        ablation = {name: Scorer(f"{sources} {inputs}", SELECTOR, main, inputs) for name, inputs in ABLATIONS.items()}
        found |= {SELECTOR: ablation["all"], methods.SelectorEarly.name: ablation["early: image, first token"]}
        exposure = {}
        if "exposure" in self.files:
            plain = Scorer(f"plain {sources}", SELECTOR, main, exposure=False)
            exposure = {"with": ablation["all"], "without": plain}
        return {"methods": found, "ablation": ablation, "exposure": exposure}

    def cells(self) -> list[tuple[str, Scorer, Mix]]:
        """All that the study is made of, each of them once: bundle, confidence, mix."""
        large = [
            (entry.folder, scorer, mix)
            for entry in self.config.bundle
            for scorer in self.scorers(entry).values()
            for mix in self.config.measured
        ]
        small = [
            (self.config.main, scorer, mix)
            for table in self.small().values()
            for scorer in table.values()
            for mix in self.config.ends
        ]
        return list(dict.fromkeys(large + small))

    def score(self, scorer: Scorer) -> Callable[[Traces], Array]:
        """Traces -> confidence [n]."""
        if scorer not in self._scores:
            self._scores[scorer] = self._score(scorer)
        return self._scores[scorer]

    def _score(self, scorer: Scorer) -> Callable[[Traces], Array]:
        if scorer.method == MAXPROB:
            return lambda traces: traces.maxprob
        if scorer.method == SELECTOR:
            return _by(self.selector(scorer.of, scorer.inputs, scorer.exposure))
        if scorer.method == TEMPERATURE:
            learned = collect.join([self.traces(scorer.of, name) for name in self._taught()])
            return _by(methods.TemperatureScaling(training.fit_temperature(learned)))
        return _by(methods.INTRINSIC[scorer.method]())

    # -- cells ----------------------------------------------------------------------------------------------------------

    def mixed(self, folder: str, mix: Mix) -> Traces:
        """The questions of a mix: a nested part of an OOD set and of the ID set, the same for every bundle."""
        known = self.traces(folder, "id")
        sizes = [len(self.traces(folder, own)) for name, own in self._ood.items() if mix.ood == name or not mix.percent]
        n = min(len(known), max(sizes))
        foreign = round(n * mix.percent / 100)
        parts = []
        for whole, count in ((self.traces(folder, self._ood[mix.ood]) if foreign else None, foreign), (known, n - foreign)):
            if whole is not None and count:
                parts.append(collect.take(whole, np.random.default_rng(SEED).permutation(len(whole))[:count]))
        return collect.join(parts)

    def cell_path(self, folder: str, scorer: Scorer, mix: Mix) -> Path:
        sources = [self.traces_path(folder, name).name for name in ("id", self._ood.get(mix.ood, "id"))]
        return self.output / "cells" / f"{_key(VERSION, DRAWS, *sources, scorer.key, mix.percent)}.npz"

    def cell(self, folder: str, scorer: Scorer, mix: Mix) -> Cell:
        path = self.cell_path(folder, scorer, mix)
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                return Cell(
                    json.loads(str(stored["values"])), {name: stored[name] for name in stored.files if name != "values"}
                )
        traces = self.mixed(folder, mix)
        cell = _measured(self.score(scorer)(traces).astype(np.float64), traces)
        values = np.array(json.dumps(cell.values))
        write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, values=values, **cell.draws))
        return cell

    def measure(self, progress: Progress) -> Study:
        config, wanted = self.config, self.cells()
        made: dict[tuple[str, Scorer, Mix], Cell] = {}
        for number, one in enumerate(wanted):
            progress("measuring", number, len(wanted))
            made[one] = self.cell(*one)
        progress("measuring", len(wanted), len(wanted))
        large = {
            (entry.folder, name, mix): made[entry.folder, scorer, mix]
            for entry in config.bundle
            for name, scorer in self.scorers(entry).items()
            for mix in config.measured
        }
        small = {
            table: {(name, mix): made[config.main, scorer, mix] for name, scorer in scorers.items() for mix in config.ends}
            for table, scorers in self.small().items()
        }
        questions = {mix: len(self.mixed(config.main, mix)) for mix in config.measured}
        return Study(config, questions, large, **small, points=tuple(self._points()), foreign=self._strangers())

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
            for mix in self.config.measured:
                traces = self.mixed(main, mix)
                answered = np.zeros(len(traces), bool) if threshold is None else score(traces) >= threshold
                wrong = float((1 - traces.accuracy[answered]).mean()) if answered.any() else float("nan")
                found.append(AtMix(risk, threshold, mix, float(answered.mean()), wrong))
        return found


def _measured(confidence: Floats, traces: Traces) -> Cell:
    accuracy = traces.accuracy.astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    rng = np.random.default_rng(SEED)
    _, picture = np.unique(traces.picture, return_inverse=True)
    phi = evaluation.phi(confidence, accuracy, rng.permutation(picture.max() + 1)[picture] % 2)

    def every(rows: Any) -> dict[str, float]:
        found = evaluation.figures(confidence[rows], accuracy[rows]) | {"accuracy": float(accuracy[rows].mean())}
        return found | {f"phi_{cost}": float(gained[rows].mean()) for cost, gained in phi.items()}

    drawn = [every(np.repeat(order, times[order])) for times in intervals.draws(traces.picture, DRAWS, rng)]
    values = every(order)
    return Cell(values, {name: np.array([draw[name] for draw in drawn]) for name in values})


def _by(method: Trained | methods.Confidence) -> Callable[[Traces], Array]:
    return lambda traces: method.score_features(traces.features)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise EdgeVqaError(f"{path} does not exist", "paths in the study's config are relative to it")
    return path


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
