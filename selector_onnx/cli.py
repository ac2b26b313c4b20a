"""The `edge-vqa-selector` command: parses, prints, exits. No logic."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.border.program import run
from edge_vqa.cli import ray as elsewhere
from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption
from edge_vqa.cli.ray import RayOption
from edge_vqa.errors import EdgeVqaError
from selector_onnx import cli_fit, cli_import
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

if TYPE_CHECKING:
    from selector_onnx.collect import Traces

app = typer.Typer(
    name="edge-vqa-selector",
    help="Train a Selector on a bundle's own answers, and choose thresholds that keep a risk.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_fit.app)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-selector collect mini questions.jsonl -o traces.npz\n
  edge-vqa-selector collect base "s3://bucket/shards/*.tar" -o traces.npz --ray auto\n\n
Interrupted? The same command again goes on.
"""
)
def collect(
    bundle: BundleArgument,
    questions: Annotated[str, typer.Argument(help="Questions with answers, JSON lines; with --ray as of batch.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TRACES.npz", help="Where the traces go.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set (default: the file's).")] = None,
    detail: Annotated[
        str | None, typer.Option(metavar="low|high", help="Detail of the pictures (default: the bundle's).")
    ] = None,
    vision: Annotated[
        str | None, typer.Option(metavar="mtmd|onnx", help="Vision backend (default: the one that scores hold for).")
    ] = None,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out questions whose picture is missing.")] = False,
    threads: ThreadsOption = None,
    ray: RayOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a bundle over a questions file and write its traces; interrupted, the same command goes on."""
    del debug
    from edge_vqa.bundles import store
    from edge_vqa.model import load
    from selector_onnx import collect as collecting

    if detail not in (None, "low", "high"):
        raise typer.BadParameter("use low or high", param_hint="--detail")
    if not output.parent.is_dir():
        raise EdgeVqaError(f"the folder of {output} does not exist", "make it first")
    data, tower = name or Path(questions.partition("*")[0]).stem or "questions", vision or store.read(bundle).backend
    if ray is not None:
        traces, left = _collect_elsewhere(bundle, questions, output, (data, detail, tower), ray, threads, skip_missing)
    else:
        asked, missing = read_questions(Path(questions), skip_missing)
        left = len(missing)
        with load(bundle, threads=threads, vision=tower) as model, terminal.progress() as bars:
            task = bars.add_task("collecting", total=len(asked))
            traces = collecting.collect_into(
                output, model, asked, data, lambda done: bars.update(task, completed=done), detail=detail
            )
    left_out = f", {left} left out: no picture" if left else ""
    terminal.say(f"{output}: {len(traces)} traces, accuracy {traces.accuracy.mean():.3f}{left_out}")


def _collect_elsewhere(
    bundle: str,
    questions: str,
    output: Path,
    what: tuple[str, str | None, str],
    address: str,
    threads: int | None,
    skip_missing: bool,
) -> tuple[Traces, int]:
    """what: name of the data, detail, vision backend. Returns how many questions are left out, too."""
    with elsewhere.cluster(address) as cluster, terminal.progress() as bars:
        from edge_vqa.cluster import listing
        from selector_onnx import collect as collecting
        from selector_onnx.cluster import Traced, collect

        data, detail, tower = what
        keep = output.with_name(f".{output.name}.ray")
        traces, made = collect(
            Traced(bundle, {"vision": tower, "sequences": 1}, data, detail),
            listing.read(questions, labelled=True),
            keep,
            cluster,
            threads=threads,
            skip_missing=skip_missing,
            progress=terminal.steps(bars),
        )
        collecting.save(traces, output)
        shutil.rmtree(keep, ignore_errors=True)
    return traces, made.plan.missing


@app.command(epilog="Example: edge-vqa-selector train traces.npz -o selector.npz")
def train(
    traces: Annotated[list[Path], typer.Argument(help="Traces from `collect`, of questions the model was not trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SELECTOR.npz", help="Where the Selector goes.")],
    early: Annotated[
        bool, typer.Option("--early", help="Look at picture, question and first token only: for ask --early.")
    ] = False,
    seed: SeedOption = 0,
    debug: DebugOption = False,
) -> None:
    """Train a Selector on traces, by cross-fitting."""
    del debug
    require_modules("torch", "scipy")
    from edge_vqa.trust.trace import EARLY
    from selector_onnx import collect as collecting
    from selector_onnx import train as training

    read = collecting.join([collecting.load(path) for path in traces])
    with terminal.progress() as bars:
        task = bars.add_task("training", total=None)
        fitted = training.train(
            read,
            inputs=EARLY if early else None,
            seed=seed,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    training.save(fitted.trained, output)
    for name, loss in fitted.losses.items():
        terminal.say(f"{name:26} cross-entropy out of fold {loss:.4f}{'  <- taken' if name == fitted.chosen else ''}")
    ours, theirs = fitted.aurc
    low, high = fitted.better
    terminal.say(
        f"{output}: {len(fitted.traces)} questions, accuracy {fitted.traces.accuracy.mean():.3f}; AURC out of fold: Selector"
        f" {ours:.4f}, calibrated MaxProb {theirs:.4f}, difference {theirs - ours:+.4f} [{low:+.4f}, {high:+.4f}]"
    )
    if not fitted.selector_pays:
        terminal.say(
            "the Selector is not significantly better: more questions, or the method `temperature`, may serve you better"
        )


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-selector familiarity mini-q4 traces.npz --foreign strange.npz\n
  edge-vqa-selector familiarity mini-q4 traces.npz --foreign drawn.npz --foreign spoiled.npz --foreign photos.npz\n\n
Each --foreign is one sort of pictures, and counts as much as the others. Answers play no part.
"""
)
def familiarity(
    bundle: BundleArgument,
    traces: Annotated[list[Path], typer.Argument(help="Traces of questions about pictures that the bundle is for.")],
    foreign: Annotated[list[Path], typer.Option(metavar="TRACES.npz", help="Traces of foreign pictures; may be repeated.")],
    weights: Annotated[int, typer.Option(metavar="N", help="At most so many weights an estimate: a smaller graph.")] = 110_000,
    int8: Int8Option = False,
    seed: SeedOption = 0,
    debug: DebugOption = False,
) -> None:
    """Learn how familiar a picture is, and write that into the bundle; operating points must be chosen again."""
    del debug
    require_modules("torch", "onnx", "scipy")
    from edge_vqa.bundles import store
    from selector_onnx import collect as collecting
    from selector_onnx import familiarity as learning
    from selector_onnx.export import export_familiarity

    known, others = collecting.join(list(map(collecting.load, traces))), list(map(collecting.load, foreign))
    with terminal.progress() as bars:
        bars.add_task("learning", total=None)
        learned = learning.learn(known, others, weights=weights, seed=seed)
    size = export_familiarity(learned, store.read(bundle), int8=int8)
    terminal.say(f"{bundle}: familiarity from {learned.n} pictures and {learned.foreign} foreign ones, {size:,} bytes")


@app.command(epilog="Example: edge-vqa-selector export selector.npz mini-q4")
def export(
    selector: Annotated[Path, typer.Argument(help="A Selector from `train`.")],
    bundle: BundleArgument,
    int8: Int8Option = False,
    debug: DebugOption = False,
) -> None:
    """Write the Selector into a bundle as ONNX; operating points must be chosen again."""
    del debug
    require_modules("onnx")
    from edge_vqa.bundles import store
    from selector_onnx import export as exporting
    from selector_onnx import train as training

    trained = training.load(selector)
    size = exporting.export(trained, store.read(bundle), int8=int8)
    terminal.say(f"{bundle}: {trained.method}, {size:,} bytes")


# long, and whole: an option is three lines of its own
@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-selector threshold mini-q4 calibration.npz --risk 0.05 --risk 0.1 --default 0.1\n
  edge-vqa-selector threshold small low.npz --then high.npz                      [dim]# for ask --detail auto[/dim]\n
  edge-vqa-selector threshold small small.npz --then large.npz --then-bundle large  [dim]# for ask --then large[/dim]\n
  edge-vqa-selector threshold mini-q4 calibration.npz --foreign pages.npz --foreign night.npz --share 0.05\n\n
With --then, both traces are of the same questions, and one threshold keeps the risk of all answers together.
"""
)
def threshold(
    bundle: BundleArgument,
    traces: Annotated[Path, typer.Argument(help="Traces of calibration questions: one a picture, none trained on.")],
    risk: Annotated[list[float] | None, typer.Option(metavar="R", help="Risk to keep; may be repeated.")] = None,
    delta: DeltaOption = 0.1,
    default: Annotated[
        float | None, typer.Option(metavar="R", help="Risk used when none is asked for (default: the largest).")
    ] = None,
    confidence: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Confidence method (default: the one the bundle gates with).")
    ] = None,
    then: Annotated[
        Path | None, typer.Option(metavar="TRACES.npz", help="Traces of the second look, given where the first one abstains.")
    ] = None,
    then_bundle: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="Who takes the second look (default: the same bundle, at high detail).")
    ] = None,
    unfamiliar: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of familiar pictures that may be refused as foreign.")
    ] = 0.015,
    build: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TRACES.npz", help="Traces of the same questions on another processor's build; the first as here."
        ),
    ] = None,
    foreign: Annotated[
        list[Path] | None, typer.Option(metavar="TRACES.npz", help="Traces of a set of foreign pictures; may be repeated.")
    ] = None,
    share: Annotated[
        float, typer.Option(metavar="SHARE", help="Say what holds where such a share of the questions is foreign.")
    ] = 0.05,
    debug: DebugOption = False,
) -> None:
    """Choose thresholds that keep a risk, and write them into the bundle as operating points."""
    del debug
    require_modules("scipy")
    import numpy as np

    from edge_vqa.bundles import store
    from selector_onnx import collect as collecting
    from selector_onnx.export import of_traces, write_manifest
    from selector_onnx.points import Limits, Second, choose, choose_cascade, confidences
    from selector_onnx.threshold import questions_needed

    risks = checked_risks(tuple(sorted(set(risk or [0.01, 0.05, 0.1, 0.2]))), delta)
    chosen = default if default is not None else risks[-1]
    if chosen not in risks:
        raise typer.BadParameter(f"--default {chosen:g} is none of the risks")
    for name, value in (("--unfamiliar", unfamiliar), ("--share", share)):
        if not 0 <= value < 1:
            raise typer.BadParameter("give a number from 0 to below 1", param_hint=name)
    read = collecting.load(traces)
    found = of_traces(store.read(bundle), read.origin)
    builds, strangers = (list(map(collecting.load, paths or [])) for paths in (build, foreign))
    if any(not np.array_equal(other.question_id, builds[0].question_id) for other in builds):
        raise EdgeVqaError("the traces of the builds are not of the same questions", "collect all from one questions file")
    limits = Limits(unfamiliar, builds, strangers, share)
    if then_bundle is not None and then is None:
        raise typer.BadParameter("--then-bundle needs the traces of its answers: --then TRACES.npz")
    if then is not None:
        second = Second(store.read(then_bundle) if then_bundle else found, collecting.load(then))
        manifest, cascade = choose_cascade(found, read, second, risks, delta, chosen, method=confidence, limits=limits)
        write_manifest(found.folder, manifest)
        for point in cascade.operating_points:
            print_point(point)
        return
    manifest = choose(found, read, risks, delta, chosen, method=confidence, limits=limits)
    method, scores = confidences(found, read, confidence)
    write_manifest(found.folder, manifest)
    for point in manifest.points(method.name):
        print_point(point)
        if point.threshold is None:
            enough = questions_needed(scores, read.accuracy, point.risk, delta, calibrated=method.calibrated)
            print_needed(enough, "calibration")


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-selector study study.toml -o study/\n
  edge-vqa-selector study study.toml -o /shared/study/ --ray auto\n\n
Interrupted? The same command again goes on.
"""
)
def study(
    config: Annotated[Path, typer.Argument(help="What to study, TOML: see docs/study.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="STUDY/", help="Folder for traces, cells and results.")],
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Processes that collect traces (default: all cores).")] = None,
    ray: RayOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure what quantisation costs in accuracy and trust, from ID to OOD; finished cells are never computed again."""
    del debug
    require_modules("torch", "scipy", "matplotlib")
    from edge_vqa.border.whole import write_bytes
    from selector_onnx import plots, tables
    from selector_onnx import study as studies
    from selector_onnx.study_config import read_config

    read = read_config(config)
    if ray is not None and jobs is not None:
        raise typer.BadParameter("is of one machine only", param_hint="--jobs")
    if ray is not None:
        with elsewhere.cluster(ray) as cluster, terminal.progress() as bars:
            from selector_onnx import cluster as on_many

            shop = studies.Workshop(read, config.parent.resolve(), output.resolve())
            made = on_many.study(shop, cluster, progress=terminal.steps(bars))
    else:
        with terminal.progress() as bars:
            made = studies.run(read, config.parent, output, jobs=jobs, progress=terminal.steps(bars))
    results = {
        "study.json": tables.as_json(made).encode(),
        "study.md": tables.markdown(made).encode(),
        "study.png": plots.figure(made),
    }
    for name, content in results.items():
        write_bytes(output / name, content)
    for name in results:
        terminal.say(str(output / name))


app.add_typer(cli_import.app, name="import")


def main() -> None:
    run(app, "edge-vqa-selector")


if __name__ == "__main__":
    main()
