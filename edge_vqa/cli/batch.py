"""`edge-vqa batch` and `edge-vqa eval`: a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import (
    Asking,
    ConfidenceOption,
    DebugOption,
    DeviceOption,
    Loading,
    ModelOption,
    SkipOption,
    ThreadsOption,
    TogetherOption,
    VisionOption,
    spread,
)
from edge_vqa.cli.ray import RayOption
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.work.batch import Outcome
    from edge_vqa.work.evaluation import Case, Judged
    from edge_vqa.work.questions import Question

app = typer.Typer()


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa batch questions.jsonl -o answers.jsonl\n
  edge-vqa batch questions.jsonl -o answers.jsonl --risk 0.1 --skip-missing\n
  edge-vqa batch "s3://bucket/shards/*.tar" -o s3://bucket/answers.parquet --ray auto\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?"}; image relative to the file.
A line of ANSWERS has the same question_id, and answer, abstained, confidence, ...; or error.\n
Interrupted? The same command again goes on where it stopped; a question or picture changed since is asked again.\n
Exit status: 0 all asked, 1 some failed, 2 wrong usage.
"""
)
@spread
def batch(
    questions: Annotated[str, typer.Argument(help="Questions, JSON lines; with --ray also Parquet or tar shards.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="ANSWERS.jsonl", help="Where the answers go; with --ray also a folder, or X.parquet."
        ),
    ],
    *,
    asking: Asking,
    loading: Loading,
    skip_missing: SkipOption = False,
    together: TogetherOption = None,
    ray: RayOption = None,
    debug: DebugOption = False,
) -> None:
    """Ask all questions of a file; goes on where it was interrupted."""
    del debug  # read by program.run
    from edge_vqa.work import batch as batches

    settings = batches.Settings(**asking.how(), show_candidate=asking.show_candidate)
    if ray is not None:
        from edge_vqa.cli import ray as spread_out

        with spread_out.cluster(ray) as cluster:
            made = spread_out.ask(
                questions, output, settings, loading, cluster=cluster, together=together, skip_missing=skip_missing
            )
        _told(output, made.tally, made.plan.missing)
        return
    asked, missing = _questions(Path(questions), skip_missing)
    with loading.loaded(sequences=together) as model, terminal.progress() as bars:
        task = bars.add_task("asking", total=len(asked))
        outcome = batches.run(model, asked, Path(output), settings, lambda done: bars.update(task, completed=len(done)))
    again = f"; {outcome.again} asked again, whose question or picture was changed" if outcome.again else ""
    _told(output, outcome, len(missing), again)


def _told(output: str, outcome: Outcome, missing: int, again: str = "") -> None:
    """What came of it; exit status 1 where some could not be asked."""
    left_out = f", {missing} left out: no picture" if missing else ""
    terminal.tell(
        f"{output}: {outcome.answered} answered, {outcome.abstained} abstained, {outcome.failed} failed{left_out}{again}"
    )
    if outcome.failed:
        terminal.tell(f"edge-vqa: first failure: {outcome.first_failure}")
        raise typer.Exit(1)


@app.command(
    "eval",
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa eval questions.jsonl -o report/\n
  edge-vqa eval questions.jsonl -o report/ --model mine --skip-missing\n
  edge-vqa eval questions.jsonl -o report/ --foreign receipts.jsonl --foreign night.jsonl\n
  edge-vqa eval questions.jsonl -o report/ --ray auto\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?", "answers": ["dog"]}.\n
Interrupted? The same command again goes on where it stopped (answers.jsonl in the folder).
""",
)
def eval_(
    questions: Annotated[Path, typer.Argument(help="Questions with answers, JSON lines.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPORT/", help="Folder for the report.")],
    model: ModelOption = None,
    foreign: Annotated[
        list[Path] | None,
        typer.Option(metavar="QUESTIONS.jsonl", help="Questions about pictures it was not made for; may be repeated."),
    ] = None,
    confidence: ConfidenceOption = None,
    skip_missing: SkipOption = False,
    vision: VisionOption = None,
    device: DeviceOption = None,
    together: TogetherOption = None,
    threads: ThreadsOption = None,
    ray: RayOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print metrics.json.")] = False,
    debug: DebugOption = False,
) -> None:
    """Measure accuracy and reliability on labelled questions, and write a report."""
    del debug  # read by program.run

    from edge_vqa.work import batch as batches
    from edge_vqa.work import evaluation, report

    asked, missing = _questions(questions, skip_missing, labelled=True)
    strangers = {path.stem: _questions(path, skip_missing, labelled=True)[0] for path in foreign or []}
    if len(strangers) < len(foreign or []):
        raise typer.BadParameter("each set is called by its file's name: give them different ones", param_hint="--foreign")
    _make(output)
    loading = Loading(model, confidence, vision=vision, device=device, threads=threads)
    if ray is not None:  # then nothing is left to ask here
        sets_of = {"answers.jsonl": questions} | {f"foreign_{path.stem}.jsonl": path for path in foreign or []}
        _ask_elsewhere(sets_of, output, loading, ray, together, skip_missing)
    with loading.loaded(sequences=together) as asking, terminal.progress() as bars:
        bundle = asking.bundle

        def judged_in(name: str, ask: list[Question], answers: Path) -> tuple[Judged, list[Case]]:
            task = bars.add_task(name, total=len(ask))
            settings = batches.Settings(gate=False)
            batches.run(asking, ask, answers, settings, lambda done: bars.update(task, completed=len(done)))
            return evaluation.judge(ask, answers)

        judged, cases = judged_in("asking", asked, output / "answers.jsonl")
        point, sets = bundle.manifest.default_point(asking.confidence.name), []
        for name, others in strangers.items():
            theirs, _ = judged_in(name, others, output / f"foreign_{name}.jsonl")
            sets.append(evaluation.foreign(name, theirs, judged, point))
        task = bars.add_task("intervals", total=None)
        found = evaluation.evaluate(
            judged, bundle.manifest.operating_points, lambda done, total: bars.update(task, completed=done, total=total)
        )
    subject = report.Subject(bundle.name, questions.stem, len(asked) - len(cases), len(missing), sets)
    files = report.write(output, subject, found, judged, cases)
    if json_:
        print(report.as_json(subject, found), end="")
        return
    for line in report.lines(found, sets):
        terminal.say(line)
    terminal.tell(f"{files[-1]}")


def _ask_elsewhere(
    files: dict[str, Path], output: Path, loading: Loading, address: str, together: int | None, skip_missing: bool
) -> None:
    """Always answering; files: of questions, by the names of their answers."""
    from edge_vqa.cli import ray
    from edge_vqa.work.batch import Settings

    always = Settings(gate=False)
    with ray.cluster(address) as cluster:
        for name, file in files.items():
            to = str(output / name)
            ray.ask(str(file), to, always, loading, cluster=cluster, together=together, skip_missing=skip_missing)


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise EdgeVqaError(f"{folder} is not a folder", "choose another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeVqaError(f"{folder} cannot be made ({error.strerror})", "choose another place") from None


def _questions(path: Path, skip_missing: bool, *, labelled: bool = False) -> tuple[list[Question], list[Question]]:
    """Questions to ask, and those left out because their picture is missing."""
    from edge_vqa.work import questions as files

    return files.present(files.read(path, labelled=labelled), path, skip_missing=skip_missing)
