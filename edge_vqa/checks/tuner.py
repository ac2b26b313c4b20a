"""Tries settings of a bundle on this device, and keeps the fastest in `tuning`."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from edge_vqa.bundles.store import Bundle
from edge_vqa.checks.bench import MOST_TOKENS, QUESTIONS, Progress, noise
from edge_vqa.device import tuning
from edge_vqa.device.profile import cores
from edge_vqa.device.tuning import Choice
from edge_vqa.llm.llama import Llama
from edge_vqa.llm.threads import Threads
from edge_vqa.model import Model
from edge_vqa.session.options import Options

T = TypeVar("T")

ROUNDS = 3  # of each setting; the best counts, as nothing makes a setting faster than it is
TUNE_PROMPT, TUNE_ANSWER = 128, 16
TOGETHER = (1, 2, 4, 8, 16)
TUNE_PICTURES = 4  # two questions on each
CLEARLY = 0.97  # what is not faster than the default by this much stays as it is


@dataclass(frozen=True)
class Trial:
    """One setting that was tried: seconds of its best round."""

    step: str
    setting: str
    seconds: float


@dataclass(frozen=True)
class Tuned:
    """Settings and the median seconds of a first question with each, measured in turn."""

    before: Choice
    after: Choice
    seconds_before: float
    seconds_after: float
    trials: tuple[Trial, ...]


def tune(bundle: Bundle, options: Options, progress: Progress = lambda step, done, total: None) -> Tuned:
    """Try vision backends, threads and numbers of questions together; remember the fastest for this device and bundle.

    `options.device` and `options.context` hold; threads and vision are what is looked for.
    """
    with _model(bundle, options, None) as model:
        before = Choice(model.backend, model.threads, tuning.choose(bundle).together)
    trials: list[Trial] = []
    counts = sorted({1, 2, max(1, cores() // 2), cores(), len(os.sched_getaffinity(0)) if sys.platform == "linux" else cores()})
    settings = [(backend, count) for backend in tuning.backends(bundle) for count in counts]
    usual, towers = before.threads, tuning.tower_times(bundle, settings, lambda done: progress("vision", done, len(settings)))
    vision, vision_threads = _best(towers, (before.vision, usual.vision), trials, "picture: encode")
    steps = _steps(bundle, counts, progress)
    prefill = _best(steps["prefill"], usual.prefill, trials, f"prefill of {TUNE_PROMPT} tokens")
    decode = _best(steps["decode"], usual.decode, trials, f"decoding of {TUNE_ANSWER} tokens")
    after = Choice(vision, Threads(vision_threads, prefill, decode), before.together)
    together: dict[int, float] = {}
    for number, size in enumerate(TOGETHER):
        progress("questions together", number, len(TOGETHER))
        together[size] = _together(bundle, options, replace(after, together=size))
    progress("questions together", len(TOGETHER), len(TOGETHER))
    after = replace(after, together=_best(together, before.together, trials, "questions together, each"))
    seconds = _compare(bundle, options, (before, after), progress)
    if seconds[1] > seconds[0]:  # parts that looked faster alone are not so in the whole
        after, seconds = replace(before, together=after.together), (seconds[0], seconds[0])
    tuning.write(bundle, after)
    return Tuned(before, after, *seconds, tuple(trials))


def _best(times: dict[T, float], usual: T, trials: list[Trial], step: str) -> T:
    """The fastest setting; the usual one, unless another is clearly faster."""
    for setting, seconds in times.items():
        name = ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
        trials.append(Trial(step, name, seconds))
    fastest = min(times, key=times.__getitem__)
    return fastest if usual not in times or times[fastest] < CLEARLY * times[usual] else usual


@contextmanager
def _model(bundle: Bundle, options: Options, choice: Choice | None) -> Iterator[Model]:
    plain = replace(options, vision=None, threads=None, watch=False, then=None, sequences=1, pictures=1, cache_dir=None)
    if choice is not None:
        plain = replace(plain, vision=choice.vision, threads=choice.threads, sequences=choice.together)
    with Model(bundle, plain) as model:
        yield model


def _steps(bundle: Bundle, counts: list[int], progress: Progress) -> dict[str, dict[int, float]]:
    times: dict[str, dict[int, float]] = {"prefill": dict.fromkeys(counts, math.inf), "decode": dict.fromkeys(counts, math.inf)}
    lm = Llama(bundle.files["lm"], context=2 * (TUNE_PROMPT + TUNE_ANSWER), threads=Threads.of(1))
    try:
        for number in range(ROUNDS + 1):  # the first warms up
            progress("language model", number, ROUNDS + 1)
            for count in counts:
                lm.set_threads(count, count)
                prefill, decode = lm.speed(TUNE_PROMPT, TUNE_ANSWER)
                if number:
                    times["prefill"][count] = min(times["prefill"][count], prefill)
                    times["decode"][count] = min(times["decode"][count], decode)
        progress("language model", ROUNDS + 1, ROUNDS + 1)
    finally:
        lm.close()
    return times


def _together(bundle: Bundle, options: Options, choice: Choice) -> float:
    """Seconds of a question, of many."""
    pictures = noise()
    rounds = max(1, choice.together // (2 * TUNE_PICTURES))
    asked = [(next(pictures).rgb, question) for _ in range(TUNE_PICTURES * rounds) for question in QUESTIONS]
    with _model(bundle, options, choice) as model:
        list(model.ask_many(asked[:2], gate=False, max_tokens=MOST_TOKENS))
        return _timed(lambda: list(model.ask_many(asked, gate=False, max_tokens=MOST_TOKENS))) / len(asked)


def _compare(bundle: Bundle, options: Options, choices: Sequence[Choice], progress: Progress) -> tuple[float, float]:
    """Median seconds of a first question with each choice, in turn; one model is loaded at a time."""
    pictures = noise()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        progress("before and after", number, ROUNDS)
        for choice, kept in zip(choices, times, strict=True):
            with _model(bundle, options, replace(choice, together=1)) as model:
                for again in range(3):
                    picture = next(pictures)
                    seconds = _timed(lambda: model.ask(picture, QUESTIONS[0], gate=False, max_tokens=MOST_TOKENS))  # noqa: B023
                    kept += [seconds] if again else []
    progress("before and after", ROUNDS, ROUNDS)
    return float(np.median(times[0])), float(np.median(times[1]))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
