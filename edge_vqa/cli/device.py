"""`edge-vqa doctor` and `edge-vqa bench`: what a bundle is up to on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import (
    ConfidenceOption,
    ContextOption,
    DebugOption,
    DeviceOption,
    KvOption,
    ModelOption,
    ThreadsOption,
    VisionOption,
    check_detail,
)
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.bundles.store import Bundle
    from edge_vqa.checks.bench import Bench
    from edge_vqa.session.options import Options

app = typer.Typer()


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa doctor\n
  edge-vqa doctor --model SmolVLM-500M-Instruct\n
  EDGE_VQA_WATCH=1 edge-vqa ask photo.jpg "what is this?"; edge-vqa doctor   [dim]# compares with calibration[/dim]\n\n
Exit status: 0 all is well, 1 something wants attention.
"""
)
def doctor(
    model: ModelOption = None,
    confidence: ConfidenceOption = None,
    device: DeviceOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    debug: DebugOption = False,
) -> None:
    """Look whether a bundle can do its work here: board, CPU, memory, disk, files, a self-test, drift of confidence."""
    del debug  # read by errors.run

    from dataclasses import asdict

    from edge_vqa.checks import doctor as doctors

    terminal.busy("looking ...")
    findings = []
    for finding in doctors.examine(model, confidence=confidence, device=device):
        findings.append(finding)
        if not json_:
            terminal.busy("")
            todo = f"; {finding.todo}" if finding.todo else ""
            terminal.say(f"{finding.level:8} {finding.about:12} {finding.text}{todo}", flush=True)
            terminal.busy("looking ...")
    terminal.busy("")
    if json_:
        terminal.print_json([asdict(finding) for finding in findings])
    if any(finding.level in (doctors.WARNING, doctors.PROBLEM) for finding in findings):
        raise typer.Exit(1)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa bench\n
  edge-vqa bench --model SmolVLM-500M-Instruct -o pi5.json\n
  edge-vqa bench --compare laptop.json pi5.json\n
  edge-vqa bench --tune   [dim]# find the fastest settings for this device, and keep them[/dim]\n\n
Interrupted? What was measured so far is kept, and marked.
"""
)
def bench(
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="Where the result goes (default: a file of its own)."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", metavar="A.json B.json", help="Show two results side by side.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Try threads, vision backends, questions together; keep the fastest.")
    ] = False,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="Repetitions.")] = 10,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    detail: Annotated[str | None, typer.Option("--detail", metavar="low|high", help="Detail (default: the bundle's).")] = None,
    vision: VisionOption = None,
    threads: ThreadsOption = None,
    context: ContextOption = None,
    kv_type: KvOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure how fast a bundle is on this device, and what it takes."""
    del debug  # read by errors.run
    if compare and tune:
        raise typer.BadParameter("--compare and --tune exclude each other")
    check_detail(detail)

    from edge_vqa.bundles import store
    from edge_vqa.checks import bench as benches
    from edge_vqa.cli import bench_tables as tables
    from edge_vqa.session.options import Options

    if compare:
        short = compare[0].stem != compare[1].stem
        tables.print_comparison([(path.stem if short else str(path), benches.read(path)) for path in compare])
        return
    if output is not None and not output.resolve().parent.is_dir():
        raise EdgeVqaError(f"{output.parent} is no folder", "choose another place for the result")
    bundle = store.read(model)
    store.verify(bundle)
    options = Options(device=device, vision=vision, threads=threads, context=context, kv_type=kv_type)
    if tune:
        _tune(bundle, options, json_=json_)
    else:
        _measure(benches.Bench(bundle, options, detail=detail, repeat=repeat), output, json_=json_)


def _tune(bundle: Bundle, options: Options, *, json_: bool) -> None:
    from dataclasses import asdict

    from edge_vqa.checks import tuner
    from edge_vqa.cli import bench_tables as tables
    from edge_vqa.device import sensors

    others = sensors.busy()
    if others is not None and others >= sensors.BUSY:
        terminal.tell(f"edge-vqa: other programs keep {others:.1f} cores busy: tune again when they rest")
    with terminal.progress() as bars:
        tuned = tuner.tune(bundle, options, terminal.steps(bars))
    if json_:
        terminal.print_json(asdict(tuned))
    else:
        tables.print_tuned(tuned)


def _measure(work: Bench, output: Path | None, *, json_: bool) -> None:
    from edge_vqa.checks import bench as benches
    from edge_vqa.cli import bench_tables as tables

    with terminal.progress() as bars:
        try:
            work.run(terminal.steps(bars))
        finally:
            result = work.report()
            if result.figures:
                terminal.tell(f"kept in {benches.save(result, output)}")
    if json_:
        print(benches.as_json(result), end="")
    else:
        tables.print_report(result)
