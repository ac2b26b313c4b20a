"""Results of `edge-vqa bench` as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from edge_vqa.checks.bench import FIGURES, Figure, Report
from edge_vqa.checks.tuner import Tuned
from edge_vqa.cli import terminal
from edge_vqa.device import sensors
from edge_vqa.device.tuning import Choice


def print_report(report: Report) -> None:
    """One result."""
    console = terminal.console()
    for line in described(report):
        console.print(line)
    table = Table("", "median", "90th percentile", "unit", box=None, pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, figure in report.figures.items():
        title, unit, _ = FIGURES[name]
        table.add_row(title, shown(figure.p50), shown(figure.p90) if figure.n > 1 else "", unit)
    console.print(table)
    board = report.board
    said = []
    if board.temperature_start is not None and board.temperature_end is not None:
        said.append(f"{board.temperature_start:.0f} to {board.temperature_end:.0f} °C")
    if board.power_mode:
        said.append(f"power mode {board.power_mode}")
    if board.throttled is not None:
        held = ", ".join(board.throttled) or (f"{board.throttle_events} events" if board.throttle_events else "")
        said.append(f"clock held down: {held}" if held else "clock not held down")
    if said:
        console.print("; ".join(said), style="bold" if board.throttled else "")
    if board.busy_cores is not None and board.busy_cores >= sensors.BUSY:
        console.print(f"other programs kept {board.busy_cores:.1f} cores busy: stop them, and measure again", style="bold")
    if report.partial:
        console.print("interrupted: not everything was measured", style="bold")


def described(report: Report) -> list[str]:
    """Machine and bundle of a result, in two lines."""
    machine, subject = report.machine, report.subject
    memory = f", {machine.memory_mb / 1000:.0f} GB" if machine.memory_mb else ""
    threads = subject.threads
    tokens = "" if subject.image_tokens is None else f", {subject.image_tokens} image tokens"
    return [
        f"{machine.device} ({machine.profile}), {machine.cores} core{'s' * (machine.cores != 1)}{memory}; {machine.system};"
        f" llama-cpp-python {machine.llama_cpp_python}, onnxruntime {machine.onnxruntime}",
        f"{subject.name} {subject.version}, {subject.megabytes:g} MB, {subject.quantisation}; vision {subject.vision or '?'},"
        f" threads {threads.vision}/{threads.prefill}/{threads.decode}, detail {subject.detail}{tokens}",
    ]


def print_comparison(named: Sequence[tuple[str, Report]]) -> None:
    """Two results side by side, each with a name."""
    console = terminal.console()
    for name, report in named:
        console.print(name, style="bold", end="")
        console.print(f"{' (interrupted)' if report.partial else ''}: {'; '.join(described(report))}")
    (_, first), (_, second) = named
    table = Table("median", *(name for name, _ in named), "ratio", "unit", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for key, (title, unit, more) in FIGURES.items():
        a, b = first.figures.get(key), second.figures.get(key)
        if a is None and b is None:
            continue
        table.add_row(title, _cell(a), _cell(b), _ratio(a, b, more), unit)
    console.print(table)


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else shown(figure.p50)


def _ratio(a: Figure | None, b: Figure | None, more: bool) -> str:
    if a is None or b is None or not a.p50 or not b.p50:
        return ""
    ratio = b.p50 / a.p50
    better = ratio > 1 if more else ratio < 1
    return f"{ratio:.2f} {'better' if better else 'worse'}" if abs(ratio - 1) >= 0.03 else f"{ratio:.2f}"


def print_tuned(tuned: Tuned) -> None:
    """What was tried, and what is kept."""
    console = terminal.console()
    table = Table("tried", "setting", "seconds", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for number, trial in enumerate(tuned.trials):
        again = number and tuned.trials[number - 1].step == trial.step
        table.add_row("" if again else trial.step, trial.setting, shown(trial.seconds))
    console.print(table)
    before, after = tuned.seconds_before, tuned.seconds_after
    console.print(f"before: {_setting(tuned.before)}; a first question takes {shown(before)} s")
    console.print(f"after:  {_setting(tuned.after)}; a first question takes {shown(after)} s ({after / before:.2f} of it)")
    console.print("Kept for this device and bundle.")


def _setting(choice: Choice) -> str:
    threads = choice.threads
    return (
        f"vision {choice.vision}, threads {threads.vision}/{threads.prefill}/{threads.decode} (vision/prefill/decode),"
        f" {choice.together} questions together"
    )


def shown(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:.0f}"
    for digits, least in ((1, 10), (2, 1), (3, 0.1), (4, 0.01)):
        if value >= least:
            return f"{value:.{digits}f}"
    return f"{value:.5f}"
