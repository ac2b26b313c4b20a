"""What quantisation costs the base model in accuracy and trust, and what recovery brings back: the tables of docs/study.md.

    python -m recipes.base.study      # after recipes.base.questions, recipes.base.mixes; under three hours on two cores

The bf16 reference (`reference.py`) in every precision and by every method; each answers the mixes of `mixes.py`. Bundles,
traces, Selectors and cells are kept in build/base/study: what is there is not computed again. Writes recipes/base/study.md, all
tables, docs/study-base.png, and docs/study.md between its marks; a table that has no mark there is printed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from converters.compare import compare
from converters.convert import convert
from converters.options import Options, Recovery
from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import cores
from edge_vqa.model import load
from edge_vqa.trust.intervals import Figure
from edge_vqa.work import questions as files
from recipes.base import bundle as recipe
from recipes.base import reference
from recipes.base.questions import OUT
from selector_onnx import plots, study, tables
from selector_onnx.study import MAXPROB, SELECTOR, TEMPERATURE, Study
from selector_onnx.study_config import Config, Data, Entry, Mix

FOLDER, REPORT, PAGE, PLOT = (
    Path("build/base/study"),
    Path("recipes/base/study.md"),
    Path("docs/study.md"),
    Path("docs/study-base.png"),
)
RECOVER, CALIBRATION = OUT / "recover.jsonl", OUT / "selector.jsonl"
KL_QUESTIONS = 60
SPEED_ROUNDS = 3
PROMPT, ANSWER = 100, 8  # tokens


@dataclass(frozen=True)
class Made:
    """A bundle of the study. quant: None for the reference; own: whether a Selector is trained on its answers; asked: whether
    it answers the mixes, or is only compared with the reference."""

    folder: str
    precision: str
    method: str
    quant: str | None
    by: str = ""  # of recovery
    minutes: float = 1
    own: bool = False
    eight: bool = True  # bits of the vision graph
    asked: bool = True


BUNDLES = (
    Made("bf16", "bf16", "", None, own=True),
    Made("bf16-float", "bf16", "float tower", None, eight=False, asked=False),
    Made("rtn-q8_0", "int8", "RTN q8_0", "rtn:q8_0"),
    Made("rtn-q6_k", "6 bits", "RTN q6_k", "rtn:q6_k", asked=False),
    Made("rtn-q5_k_m", "5 bits", "RTN q5_k_m", "rtn:q5_k_m"),
    Made("rtn-q4_k_m", "int4", "RTN q4_k_m", "rtn:q4_k_m"),
    Made("rtn-q4_1", "int4", "RTN q4_1", "rtn:q4_1", asked=False),
    Made("hqq-q4_1", "int4", "HQQ q4_1", "hqq:q4_1"),
    Made("mbq-q4_1", "int4", "MBQ q4_1", "mbq+rtn:q4_1"),
    Made("mbq-hqq-q4_1", "int4", "MBQ and HQQ q4_1", "mbq+hqq:q4_1", asked=False),
    Made("rtn-iq4_nl", "int4", "RTN iq4_nl", "rtn:iq4_nl", asked=False),
    Made("rtn-q4_0", "int4", "RTN q4_0", "rtn:q4_0", asked=False),
    Made("rtn-q4_k_xs", "int4", "RTN q4_k_xs", "rtn:q4_k_xs"),
    Made("closed-q4_k_xs", "int4", "q4_k_xs, closed form", "rtn:q4_k_xs", by="closed-form"),
    Made("gains-q4_k_xs", "int4", "q4_k_xs, gains recovered", "rtn:q4_k_xs", by="gains", minutes=4),
    Made("recovered-q4", "int4", "q4_k_xs, recovered", "rtn:q4_k_xs", by="weights", minutes=20, own=True),
    Made("rtn-q3_k_s", "int4 and 3", "RTN q3_k_s", "rtn:q3_k_s", asked=False),
    Made("rtn-q2_k", "int4 and 2", "RTN q2_k", "rtn:q2_k", asked=False),
    Made("rtn3", "int3", "RTN, eight levels", "rtn3:q4_0"),
    Made("recovered-q3", "int3", "eight levels, recovered", "rtn3:q4_0", by="weights", minutes=8),
)
BASELINE, MAIN = "bf16", "recovered-q4"
SETS = {name: f"{name}_test.jsonl" for name in ("corrupted", "conversation", "adversarial", "foreign")}


def make() -> list[Bundle]:
    """Every bundle; those that are there are kept."""
    for one in BUNDLES:
        path = FOLDER / one.folder
        if (path / "bundle.json").is_file():
            continue
        print(f"making {one.folder}", file=sys.stderr, flush=True)
        if one.quant is None:
            recipe.write(reference.read(), path, one.folder, "bf16", eight=one.eight)
            continue
        options = Options(quant=one.quant, licence="Apache-2.0", source="recipes/base", threads=cores())
        if one.quant.startswith("mbq"):
            options = replace(options, calibration=CALIBRATION)
        if one.by:
            options = replace(options, recover=Recovery(RECOVER, one.by, one.minutes, FOLDER / "state"))
        convert(FOLDER / BASELINE, path, options, notice=_say)
    return [store.read(FOLDER / one.folder) for one in BUNDLES]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def config() -> Config:
    folder = Path("../questions")
    return Config(
        name="the base model",
        data=Data(
            train=str(folder / "selector_study.jsonl"),
            id=str(folder / "plain_test.jsonl"),
        ),
        bundle=tuple(Entry(one.folder, one.precision, one.method, one.own) for one in BUNDLES if one.asked),
        baseline=BASELINE,
        main=MAIN,
        mixes=(0, 50, 100),
        ood={name: str(folder / file) for name, file in SETS.items()},
    )


# -- what the study does not measure: KL and speed ---------------------------------------------------------------------------


def kept(name: str, bundles: Iterable[Bundle], measure: Callable[[list[Bundle]], dict[str, object]]) -> dict[str, dict]:
    """What is known of bundles by their LM's checksum; `measure` is asked for the rest."""
    path = FOLDER / f"{name}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    if missing := [one for one in bundles if "|".join(one.fingerprint) not in known]:
        found = measure(missing)
        known |= {"|".join(one.fingerprint): found[one.folder.name] for one in missing}
        write_bytes(path, json.dumps(known).encode())
    return known


def divergences(missing: list[Bundle]) -> dict[str, object]:
    asked = files.read(OUT / "plain_test.jsonl", labelled=True)[:KL_QUESTIONS]
    first, *others = compare(store.read(FOLDER / BASELINE), missing, asked, threads=cores())
    return {row.name: {"kl": asdict(row.kl), "same": asdict(row.same)} for row in others} | {
        BASELINE: {"kl": asdict(first.kl), "same": asdict(first.same)}
    }


def speeds(missing: list[Bundle]) -> dict[str, object]:
    """Tokens a second of a prompt and of an answer, medians; all bundles in turn, several times."""
    rounds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(SPEED_ROUNDS):
        for one in missing:
            with load(one.folder, confidence="maxprob", threads=cores()) as model:
                prompt, answer = model.speed(PROMPT, ANSWER)
            rounds.setdefault(one.folder.name, []).append((PROMPT / prompt, ANSWER / answer))
    return {name: dict(zip(("prompt", "answer"), np.median(found, 0).tolist(), strict=True)) for name, found in rounds.items()}


# -- tables ------------------------------------------------------------------------------------------------------------------


def figure(values: dict[str, float], factor: float, digits: int) -> str:
    return tables.shown(Figure(**values), factor, digits)


def sizes(bundles: Sequence[Bundle], whole: int) -> str:
    """Size, speed, KL. whole: bytes of the bf16 bundle with its float tower."""
    kl, speed = kept("kl", bundles, divergences), kept("speed", bundles, speeds)
    rows, lm = [], bundles[0].manifest.files["lm"].bytes
    for made, bundle in zip(BUNDLES, bundles, strict=True):
        own, key = bundle.manifest.files["lm"].bytes, "|".join(bundle.fingerprint)
        rows.append([
            f"{made.precision} {made.method}".strip(), f"{bundle.manifest.quantisation.bits_per_weight:.2f}",
            f"{own / 1e6:.1f} ({own / lm:.1%})", f"{bundle.bytes / 1e6:.1f} ({bundle.bytes / whole:.1%})",
            f"{speed[key]['prompt']:.0f}", f"{speed[key]['answer']:.0f}",
            figure(kl[key]["kl"], 1000, 1), figure(kl[key]["same"], 100, 1),
        ])  # fmt: skip
    header = ["LM", "bits a weight", "LM, MB", "bundle, MB", "prompt, tokens/s", "answer, tokens/s"]
    return tables.table([*header, "KL, 1e-3 nats", "same answers, %"], rows)


def ends(made: Study) -> tuple[Mix, ...]:
    """ID, and each harder set alone."""
    return tuple(mix for mix in made.config.ends if mix.ood != "foreign")


def against(made: Study, name: str) -> str:
    """A figure of MaxProb on every set, less bf16's."""
    (_, factor, digits), rows = tables.FIGURES[name], []
    for entry in made.config.bundle:
        cells = [(made.cells[entry.folder, MAXPROB, mix], made.cells[BASELINE, MAXPROB, mix]) for mix in ends(made)]
        shown = [
            tables.shown(own.figure(name), factor, digits) if entry.folder == BASELINE
            else tables.shown(own.minus(theirs, name), factor, digits, sign=True)
            for own, theirs in cells
        ]  # fmt: skip
        rows.append([entry.label, *shown])
    return tables.table(["LM", *(mix.ood or "plain" for mix in ends(made))], rows)


def reached(made: Study) -> str:
    """Recovered LMs against the bf16 one, and three bits against four."""

    def row(title: str, ours: tuple[str, str], theirs: tuple[str, str], name: str, factor: float, digits: int) -> list[str]:
        cells = [made.cells[(*ours, mix)].minus(made.cells[(*theirs, mix)], name) for mix in ends(made)]
        return [title, *(tables.shown(cell, factor, digits, sign=True) for cell in cells)]

    whole, four, three = (BASELINE, MAXPROB), (MAIN, MAXPROB), ("recovered-q3", MAXPROB)
    share = [made.cells[(*four, mix)].values["accuracy"] / made.cells[(*whole, mix)].values["accuracy"] for mix in ends(made)]
    trusting = (MAIN, SELECTOR)
    rows = [
        ["int4: accuracy, share of bf16's, %", *(f"{100 * one:.1f}" for one in share)],
        row("int4: accuracy minus bf16's, points", four, whole, "accuracy", 100, 1),
        row("int4: ECE of MaxProb minus bf16's", four, whole, "ece", 1, 3),
        row("int4: ECE of the Selector minus that of bf16's", trusting, (BASELINE, SELECTOR), "ece", 1, 3),
        row("C@5 %: int4 with Selector minus bf16 with MaxProb, points", trusting, whole, "coverage_at_0.05", 100, 1),
        row("C@10 %: the same", trusting, whole, "coverage_at_0.1", 100, 1),
        row("int3: accuracy minus HQQ's at int4, q4_1", three, ("hqq-q4_1", MAXPROB), "accuracy", 100, 1),
        row("int3: accuracy minus RTN's at int4, q4_k_xs", three, ("rtn-q4_k_xs", MAXPROB), "accuracy", 100, 1),
    ]
    return tables.table(["", *(mix.ood or "plain" for mix in ends(made))], rows)


def trusted(made: Study, name: str) -> str:
    """A figure of MaxProb, temperature and Selectors, of the bundles that have a Selector of their own; half of the questions
    on foreign pictures: alone, nothing about them can be right."""
    mixes = (*ends(made), Mix("foreign", 50))
    rows = [
        [*titles, *(tables.shown(made.cells[(*which, mix)].figure(name), *tables.FIGURES[name][1:]) for mix in mixes)]
        for which, titles in confidences(made, {entry.folder for entry in made.config.bundle if entry.selector})
        if which[1] != TEMPERATURE or name == "ece"  # it ranks as MaxProb does
    ]
    return tables.table(["LM", "confidence", *(str(mix) if mix.percent == 50 else mix.ood or "plain" for mix in mixes)], rows)


def plain(made: Study) -> str:
    """Every figure of every LM on the plain questions."""
    names = [name for name in tables.FIGURES if name not in ("accuracy", "aurc")]
    rows = [
        [*titles, *(tables.shown(made.cells[(*which, Mix("", 0))].figure(name), *tables.FIGURES[name][1:]) for name in names)]
        for which, titles in confidences(made, {entry.folder for entry in made.config.bundle})
        if which[1] != TEMPERATURE  # all of it is in REPORT
    ]
    return tables.table(["LM", "confidence", *(tables.FIGURES[name][0] for name in names)], rows)


def confidences(made: Study, folders: set[str]) -> list[tuple[tuple[str, str], list[str]]]:
    """(bundle, confidence), and what they are called."""
    return [
        ((entry.folder, confidence), [entry.label, title.format(baseline=BASELINE)])
        for entry in made.config.bundle
        for confidence, title in tables.NAMES.items()
        if entry.folder in folders and (entry.folder, confidence, Mix("", 0)) in made.cells
    ]


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    bundles = make()
    results = FOLDER / "results"
    made = study.run(config(), FOLDER, results, progress=lambda step, done, total: _say(f"{step}: {done} of {total}"))
    whole = next(bundle.bytes for one, bundle in zip(BUNDLES, bundles, strict=True) if not one.eight)
    parts = {
        "sizes": sizes(bundles, whole),
        "reached": reached(made),
        "plain": plain(made),
        **{name: against(made, name) for name in ("accuracy", "ece", "auroc")},
        **{name: trusted(made, f"coverage_at_{risk}") for name, risk in (("c5", "0.05"), ("c10", "0.1"))},
        "calibration": trusted(made, "ece"),
    }
    write_bytes(REPORT, tables.markdown(made).encode())
    write_bytes(results / "study.json", tables.as_json(made).encode())
    size = {one.folder: bundle.bytes / 1e6 for one, bundle in zip(BUNDLES, bundles, strict=True)}
    write_bytes(PLOT, plots.against_size(made, ends(made), size, [one.folder for one in BUNDLES if one.by]))
    page = PAGE.read_text()
    for name, text in parts.items():
        page, found = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, t=text: f"{m[1]}\n{t}\n\n{m[2]}", page, flags=re.S
        )
        if not found:
            print(f"\n{name}\n\n{text}")
    write_bytes(PAGE, page.encode())


if __name__ == "__main__":
    main()
