"""`edge-vqa-selector fit`: a bundle's gate from labelled questions, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption
from edge_vqa.errors import EdgeVqaError
from selector_onnx.cli_common import (
    BundleArgument,
    DeltaOption,
    Int8Option,
    SeedOption,
    ThreadsOption,
    checked_risks,
    print_needed,
    print_point,
    read_questions,
    require_modules,
)

app = typer.Typer()


# long, and whole: an option is three lines of its own
@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-selector fit mini --data questions.jsonl --risk 0.05 --delta 0.1\n
  edge-vqa-selector fit smolvlm --data questions.jsonl --risk 0.05 --risk 0.1 -o smolvlm-shop --corrupt 0.5\n
  edge-vqa-selector fit base --data shelf.jsonl --foreign other_photos/  [dim]# which it shall not answer about[/dim]\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?", "answers": ["dog"]}.\n
100 questions are the least; a thousand or more let a new Selector pay. Interrupted? The same command again goes on.
"""
)
def fit(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Option("--data", metavar="QUESTIONS.jsonl", help="Questions with answers.")],
    risk: Annotated[
        list[float] | None, typer.Option(metavar="R", help="Risk to keep; may be repeated, the first is the default. [0.05]")
    ] = None,
    delta: DeltaOption = 0.1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="BUNDLE", help="Where the fitted bundle goes. [./NAME-fitted]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")] = False,
    extra: Annotated[
        Path | None, typer.Option(metavar="QUESTIONS.jsonl", help="More questions that only train: rephrased, other pictures.")
    ] = None,
    corrupt: Annotated[
        float, typer.Option(metavar="SHARE", help="Train on so many corrupted copies of pictures too (needs imagecorruptions).")
    ] = 0.0,
    swap: Annotated[float, typer.Option(metavar="SHARE", help="Train on so many questions about a wrong picture too.")] = 0.0,
    foreign: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures that will not be asked about, so that it abstains there.")
    ] = None,
    calibration: Annotated[float, typer.Option(metavar="SHARE", help="Share of pictures that choose thresholds.")] = 0.5,
    int8: Int8Option = False,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out questions whose picture is missing.")] = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    debug: DebugOption = False,
) -> None:
    """Fit a bundle's gate to your questions: train a Selector, choose thresholds with a guarantee, report."""
    del debug
    require_modules("torch", "onnx", "scipy")
    from edge_vqa.bundles import store
    from selector_onnx import fit as fitting

    risks = checked_risks(tuple(dict.fromkeys(risk or [0.05])), delta)
    for name, share in (("--corrupt", corrupt), ("--swap", swap)):
        if not 0 <= share <= 1:
            raise typer.BadParameter("give a share from 0 to 1", param_hint=name)
    if not 0.1 <= calibration <= 0.9:
        raise typer.BadParameter("give a share from 0.1 to 0.9", param_hint="--calibration")
    found, strangers = store.read(bundle), _pictures(foreign) if foreign else []
    target = output or Path(f"{found.folder.name}-fitted")
    if target.exists() and not force:
        raise EdgeVqaError(f"{target} exists already", "choose another with -o, or --force to replace it")
    asked, missing = read_questions(data, skip_missing)
    more, missing_too = read_questions(extra, skip_missing) if extra else ([], [])
    if missing or missing_too:
        terminal.tell(f"{len(missing) + len(missing_too)} questions left out: no picture")
    options = fitting.Options(risks, delta, calibration, corrupt, swap, int8, seed, threads)
    with terminal.progress() as bars:
        made = fitting.fit(
            found, asked, target, options, extra=more, foreign=strangers, force=force, progress=terminal.steps(bars)
        )
    added = f", and {made.exposed} more that were added" if made.exposed else ""
    terminal.say(f"{made.training} questions trained{added}; {made.calibration}, one a picture, chose thresholds")
    terminal.say(f"gate: {made.why}")
    terminal.say(f"familiarity: {made.familiarity}")
    for point in made.points:
        print_point(point)
        if point.threshold is None:
            print_needed(made.would_do[point.risk], "labelled")
    terminal.say(f'{target}: try it with edge-vqa ask photo.jpg "what is this?" --model {target}')
    terminal.say(f"{made.report}: how reliable it was on the calibration questions")


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below, by their names; each is opened once, so that none fails later."""
    from edge_vqa.pictures.open import open_picture

    endings = {*(".jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .avif .jp2".split())}
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings and path.is_file()]
    if not found:
        raise EdgeVqaError(f"{folder} holds no pictures", "give a folder of JPEG or PNG files, a few hundred if you can")
    for path in found:
        open_picture(path)
    return found
