"""The `edge-vqa-selector` command: parses, prints, exits. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.errors import EdgeVqaError, run

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(
    name="edge-vqa-selector",
    help="Train a Selector on a bundle's own answers, and choose thresholds that keep a risk.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
BundleArgument = Annotated[str, typer.Argument(help="Bundle, by name or folder.")]


def _progress() -> Progress:
    """A progress bar on the terminal; nothing where stderr is a file or a pipe."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def _require(*modules: str) -> None:
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise EdgeVqaError(f"{module} is not installed", 'pip install "edge-vqa[train]"')


@app.command(epilog="Example: edge-vqa-selector collect mini questions.jsonl -o traces.npz")
def collect(
    bundle: BundleArgument,
    questions: Annotated[Path, typer.Argument(help="Questions with answers, JSON lines.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TRACES.npz", help="Where the traces go.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set (default: the file's).")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads (default: by model size).")] = None,
    debug: DebugOption = False,
) -> None:
    """Run a bundle over a questions file and write its traces."""
    del debug
    from edge_vqa import questions as files
    from edge_vqa.model import load
    from selector_onnx import collect as collecting

    asked = files.read(questions, labelled=True)
    if not output.parent.is_dir():
        raise EdgeVqaError(f"the folder of {output} does not exist", "make it first")
    with load(bundle, threads=threads) as model, _progress() as bars:
        task = bars.add_task("collecting", total=len(asked))
        traces = collecting.collect(model, asked, name or questions.stem, lambda done: bars.update(task, completed=done))
    collecting.save(traces, output)
    print(f"{output}: {len(traces)} traces, accuracy {traces.accuracy.mean():.3f}")


@app.command(epilog="Example: edge-vqa-selector train traces.npz -o selector.npz")
def train(
    traces: Annotated[Path, typer.Argument(help="Traces from `collect`, of questions the model was not trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SELECTOR.npz", help="Where the Selector goes.")],
    validation: Annotated[float, typer.Option(help="Share of pictures held out for early stopping.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the weights.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Train a Selector on traces."""
    del debug
    _require("torch")
    from selector_onnx import collect as collecting
    from selector_onnx import train as training

    if not 0 < validation < 0.9:
        raise typer.BadParameter("give a share between 0 and 0.9", param_hint="--validation")
    read = collecting.load(traces)
    with _progress() as bars:
        task = bars.add_task("training", total=200)
        trained = training.train(
            read,
            validation=validation,
            seed=seed,
            progress=lambda epoch, loss: bars.update(task, completed=epoch, description=f"loss {loss:.4f}"),
        )
    training.save(trained, output)
    print(f"{output}: {training.report(trained, read, validation=validation, seed=seed)}")


@app.command(epilog="Example: edge-vqa-selector export selector.npz mini-q4")
def export(
    selector: Annotated[Path, typer.Argument(help="A Selector from `train`.")],
    bundle: BundleArgument,
    debug: DebugOption = False,
) -> None:
    """Write the Selector into a bundle as ONNX; operating points must be chosen again."""
    del debug
    _require("onnx")
    from edge_vqa import bundle as bundles
    from selector_onnx import export as exporting
    from selector_onnx import train as training

    found = bundles.read(bundle)
    size = exporting.export(training.load(selector), found)
    print(f"{found.folder / exporting.FILE}: {size:,} bytes")


@app.command(epilog="Example: edge-vqa-selector threshold mini-q4 calibration.npz --risk 0.05 --risk 0.1 --default 0.1")
def threshold(
    bundle: BundleArgument,
    traces: Annotated[Path, typer.Argument(help="Traces of calibration questions: one a picture, none trained on.")],
    risk: Annotated[list[float] | None, typer.Option(metavar="R", help="Risk to keep; may be repeated.")] = None,
    delta: Annotated[float, typer.Option(metavar="D", help="Chance that the draw misleads.")] = 0.1,
    default: Annotated[
        float | None, typer.Option(metavar="R", help="Risk used when none is asked for (default: the largest).")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Choose thresholds that keep a risk, and write them into the bundle as operating points."""
    del debug
    _require("scipy")
    from edge_vqa import bundle as bundles
    from selector_onnx import collect as collecting
    from selector_onnx.export import write_manifest
    from selector_onnx.points import choose

    risks = sorted(set(risk or [0.01, 0.05, 0.1, 0.2]))
    if not all(0 < r < 1 for r in risks) or not 0 < delta < 1:
        raise typer.BadParameter("risks and delta must lie between 0 and 1")
    chosen = default if default is not None else risks[-1]
    if chosen not in risks:
        raise typer.BadParameter(f"--default {chosen:g} is none of the risks")
    found = bundles.read(bundle)
    manifest = choose(found, collecting.load(traces), risks, delta, chosen)
    write_manifest(found.folder, manifest)
    for point in manifest.operating_points:
        limit = "no threshold keeps it: abstains always" if point.threshold is None else f"threshold {point.threshold:.4f}"
        print(f"risk {point.risk:g}: {limit}, coverage {point.coverage:.3f} of {point.n} calibration questions")


def main() -> None:
    run(app, "edge-vqa-selector")


if __name__ == "__main__":
    main()
