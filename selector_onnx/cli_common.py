"""What several commands of `edge-vqa-selector` share: options, checks, lines of output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.bundles.manifest import OperatingPoint
    from edge_vqa.work.questions import Question

DeltaOption = Annotated[float, typer.Option(metavar="D", help="Chance that the draw of the questions misleads.")]
SeedOption = Annotated[int, typer.Option(help="Seed of splits and weights.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Store the Selector's weights in 8 bits.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads (default: by model size).")]
BundleArgument = Annotated[str, typer.Argument(help="Bundle, by name or folder.")]


def require_modules(*modules: str) -> None:
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise EdgeVqaError(f"{module} is not installed", 'pip install "edge-vqa[train]"')


def print_point(point: OperatingPoint) -> None:
    limit = "no threshold keeps it: abstains always" if point.threshold is None else f"threshold {point.threshold:.4f}"
    terminal.say(f"risk {point.risk:g}: {limit}, coverage {point.coverage:.3f} of {point.n} calibration questions")
    if (held := point.foreign) is not None:
        terminal.say(
            f"  with {held.share:.0%} foreign: risk at most {held.risk:.3f} (of {held.data}, {held.wrong:.1%} at most are"
            f" answered wrongly)"
        )


def print_needed(questions: int | None, kind: str) -> None:
    if questions:
        terminal.say(f"  about {questions:,} {kind} questions would do")
    else:
        terminal.say("  even the surest answers are wrong too often: more questions would hardly help")


def checked_risks(risks: tuple[float, ...], delta: float) -> tuple[float, ...]:
    if not all(0 < r < 1 for r in risks) or not 0 < delta < 1:
        raise typer.BadParameter("risks and delta must lie between 0 and 1")
    return risks


def read_questions(path: Path, skip_missing: bool) -> tuple[list[Question], list[Question]]:
    from edge_vqa.work import questions as files

    return files.present(files.read(path, labelled=True), path, skip_missing=skip_missing)
