"""The `edge-vqa-convert` command: parses, prints, exits. No logic."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edge_vqa.border.program import run
from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converters.options import Recovery

COMMANDS = ("convert", "inspect", "compare")


class ConvertByDefault(TyperGroup):
    """`edge-vqa-convert FOLDER -o BUNDLE` means `edge-vqa-convert convert FOLDER -o BUNDLE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*COMMANDS, "--help", "-h"):
            args = ["convert", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="edge-vqa-convert",
    cls=ConvertByDefault,
    help="Make bundles of Hugging Face checkpoints and gguf files, look into them, and compare them.",
    epilog="Example: edge-vqa-convert SmolVLM-500M-Instruct -o smolvlm --quant rtn:q4_k_m",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _needs(*modules: str, extra: str) -> None:
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            raise EdgeVqaError(f"{module} is not installed", f'pip install "edge-vqa[{extra}]"') from None


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal, nothing elsewhere: report(step, done, total)."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = terminal.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield terminal.steps(bars)


# long, and whole: an option is three lines of its own
@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-convert recipes/mini/checkpoint -o mini-q4 --quant rtn:q4_k_m\n
  edge-vqa-convert SmolVLM-500M-Instruct -o smolvlm --vision-backend onnx\n
  edge-vqa-convert Qwen2-VL-2B-Instruct -o qwen --quant mbq+hqq:q4_1 --calibration questions.jsonl\n
  edge-vqa-convert SmolVLM-500M-Instruct -o small --quant rtn:q4_k_xs --recover questions.jsonl\n
  edge-vqa-convert lm-f16.gguf --mmproj mmproj-f16.gguf -o bundle --quant rtn:q4_k_m\n
  edge-vqa-convert folder-with-a-gguf-pair -o bundle --quant keep\n\n
[bold]METHOD[/bold] is one of\n
  rtn               llama.cpp's rounding: f32 f16 bf16 q8_0 q6_k q5_k_m q4_k_m q4_k_s q4_k q4_k_xs q4_1\n
                    q4_0 iq4_nl q3_k_m q3_k_s q2_k\n
  hqq               half-quadratic quantisation: q4_1\n
  rtn3              eight levels in 4-bit blocks, to study what three bits would do: q4_0\n
  mbq+rtn, mbq+hqq  modality-balanced equalisation first, then rounding (needs --calibration)\n
  mbq-imatrix       rounding weighted by modality-balanced importance (needs --calibration)\n
  keep              a gguf pair as it is
"""
)
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a Hugging Face checkpoint, float gguf pair (its folder, or the LM's file), or float bundle."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Folder of the new bundle.")],
    quant: Annotated[str, typer.Option(metavar="METHOD:TYPE", help="How the LM is stored, see below.")] = "rtn:q4_k_m",
    vision_type: Annotated[
        str, typer.Option(metavar="TYPE", help="How the vision tower is stored: f32 f16 q8_0 q4_0.")
    ] = "q8_0",
    vision_backend: Annotated[
        str | None,
        typer.Option(
            metavar="mtmd|onnx|both",
            help="What runs the vision tower: llama.cpp, ONNX Runtime, or the faster (default: mtmd, where it can).",
        ),
    ] = None,
    onnx_type: Annotated[
        str, typer.Option(metavar="TYPE", help="How an ONNX vision tower is stored: int8 (computes so too), f16, f32.")
    ] = "int8",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="QUESTIONS.jsonl", help="Pictures, questions and answers that MBQ looks at; a hundred will do."),
    ] = None,
    recover: Annotated[
        Path | None,
        typer.Option(
            metavar="QUESTIONS.jsonl",
            help="Train back in what rounding lost, the float model as teacher: pictures and questions, no answers.",
        ),
    ] = None,
    recover_minutes: Annotated[float | None, typer.Option(metavar="N", help="How long it learns (default: 30).")] = None,
    recover_by: Annotated[
        str | None,
        typer.Option(
            metavar="weights|gains|closed-form",
            help="What learns: weights (the default), scales of blocks alone (less memory, less gain), or nothing: scales are"
            " solved for, in some minutes.",
        ),
    ] = None,
    recover_state: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the teacher's answers here, for recoveries into other types (default: not)."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Another teacher of the same architecture and vocabulary.")
    ] = None,
    mmproj: Annotated[Path | None, typer.Option(metavar="FILE", help="Vision tower of an LM gguf.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Jinja chat template to use instead of the model's.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle (default: the folder's).")] = None,
    version: Annotated[str, typer.Option("--bundle-version", help="Version of the bundle.")] = "1",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "unknown",
    description: Annotated[str, typer.Option(help="One line about the bundle.")] = "",
    source: Annotated[str | None, typer.Option(help="Where the checkpoint comes from (default: its folder's name).")] = None,
    revision: Annotated[str, typer.Option(help="Its revision.")] = "",
    instruction: Annotated[str, typer.Option(help="Text put behind every question.")] = "",
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer.")] = 32,
    detail: Annotated[str, typer.Option(metavar="low|high", help="Default detail of pictures.")] = "low",
    single: Annotated[
        bool, typer.Option("--single", help="The model was trained on one picture a question: refuse several.")
    ] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads (default: all).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    debug: DebugOption = False,
) -> None:
    """Convert a Hugging Face checkpoint or a gguf pair into a bundle for `edge-vqa ask --model`."""
    del debug
    _needs("gguf", "jinja2", "rich", extra="convert")
    from converters.convert import convert
    from converters.options import Options
    from edge_vqa.bundles import template
    from edge_vqa.device.profile import cores

    options = Options(
        quant=quant,
        vision_type=vision_type,
        vision_backend=vision_backend,
        onnx_type=onnx_type,
        calibration=calibration,
        recover=_recovery(recover, by=recover_by, minutes=recover_minutes, state=recover_state, teacher=teacher),
        mmproj=mmproj,
        chat_template=template.read(chat_template),
        name=name,
        version=version,
        licence=licence,
        description=description,
        source=source,
        revision=revision,
        instruction=instruction,
        max_tokens=max_tokens,
        detail=detail,
        threads=threads or cores(),
        force=force,
        single=single,
    )
    if vision_type == "q4_0":
        terminal.tell("edge-vqa-convert: a q4_0 vision tower costs accuracy on most models; compare it with q8_0")
    with _progress() as report:
        manifest = convert(checkpoint, output, options, report, terminal.say)
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    quantisation = manifest.quantisation
    terminal.say(f"{output}: {size:.2f} MB, {quantisation.bits_per_weight:.2f} bits a weight in the LM")
    terminal.say(f'try it: edge-vqa ask photo.jpg "what is this?" --model {output}')


def _recovery(questions: Path | None, **chosen: Any) -> Recovery | None:
    """chosen: fields of a Recovery; None leaves the default."""
    from converters.options import Recovery

    given = {name: value for name, value in chosen.items() if value is not None}
    if questions is not None:
        return Recovery(questions, **given)
    if given:
        raise EdgeVqaError("recovery needs pictures and questions to learn from", "give --recover QUESTIONS.jsonl")
    return None


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-convert inspect edge_vqa/bundles/mini\n
  edge-vqa-convert inspect lm.gguf --tensors\n
  edge-vqa-convert inspect SmolVLM-500M-Instruct --json
"""
)
def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, a gguf file, or the folder of a checkpoint or of gguf files.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its shape and type.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list, every tensor included.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show what is inside: architecture, weights and bits by group of tensors, vision tower, chat template."""
    del debug
    _needs("gguf", "rich", extra="convert")
    from converters.inspect import inspect

    sections = inspect(path)
    if json_:
        listed = [
            dataclasses.asdict(section) | {"groups": [dataclasses.asdict(group) for group in section.groups]}
            for section in sections
        ]
        terminal.print_json(listed)
        return
    from rich import box
    from rich.table import Table

    console = terminal.console(soft_wrap=True)
    for section in sections:
        console.print(section.title, style="bold")
        for word, fact in section.facts.items():
            console.print(f"  {word:<15} {fact}")
        table = Table(box=box.SIMPLE, pad_edge=False)
        columns = ("tensor", "shape", "type", "bits") if tensors else ("tensors", "number", "weights", "MB", "bits", "types")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 or column in ("types", "type", "shape") else "right")
        if tensors:
            for stored in section.tensors:
                shape = " x ".join(map(str, stored.shape))
                table.add_row(stored.name, shape, stored.type, f"{8 * stored.bytes / stored.weights:.2f}")
        else:
            for group in section.groups:
                types = ", ".join(f"{type_} {n}" for type_, n in group.types.items())
                row = (f"{group.tensors}", f"{group.weights:,}", f"{group.bytes / 1e6:.2f}", f"{group.bits:.2f}")
                table.add_row(group.name, *row, types)
            weights, size = sum(t.weights for t in section.tensors), sum(t.bytes for t in section.tensors)
            bits = f"{8 * size / max(1, weights):.2f}"
            table.add_row("all", f"{len(section.tensors)}", f"{weights:,}", f"{size / 1e6:.2f}", bits, "")
        console.print(table)


# long, and whole: options, then what is printed
@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-convert compare model-bf16 model-q4 --data questions.jsonl\n
  edge-vqa-convert compare model-bf16 model-q8 model-q4 model-hqq --data questions.jsonl -o comparison\n
  edge-vqa-convert compare model-bf16 model-q4 model-q3 --data questions.jsonl --budget 100 --risk 0.05\n\n
-o writes compare.json (every question's figures included) and compare.png into a folder.
"""
)
def compare(
    reference: Annotated[str, typer.Argument(help="Bundle to compare with, usually of type bf16 or f16.")],
    others: Annotated[list[str], typer.Argument(help="Bundles of the same model.")],
    data: Annotated[Path, typer.Option(metavar="QUESTIONS.jsonl", help="Questions with answers.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write compare.json and compare.png.")
    ] = None,
    risk: Annotated[float, typer.Option(metavar="R", help="Wrong answers among those given that you accept.")] = 0.05,
    budget: Annotated[float | None, typer.Option(metavar="MB", help="How large LM and vision tower may be together.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N questions.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the JSON instead of the table.")] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads (default: by model size).")] = None,
    debug: DebugOption = False,
) -> None:
    """Measure what quantisation costs (accuracy, KL divergence, equal answers, calibration, size), and which bundle to take."""
    del debug
    _needs("rich", "matplotlib", extra="convert")
    from converters import compare as comparison
    from edge_vqa.border.whole import write_whole
    from edge_vqa.bundles import store
    from edge_vqa.device.profile import default_threads
    from edge_vqa.work import questions as files

    first, rest = store.read(reference), [store.read(other) for other in others]
    asked = files.read(data, labelled=True)[:limit]
    with _progress() as report:
        wanted = comparison.Wanted(risk, None if budget is None else round(budget * 1e6))
        used = threads or default_threads(first.manifest.files["lm"].bytes)
        rows = comparison.compare(first, rest, asked, wanted=wanted, threads=used, progress=report)
    taken = comparison.choice(rows)
    text = comparison.as_json(rows, data.name, wanted, taken)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeVqaError(f"{output} cannot be written ({error.strerror})", "choose another folder") from None
        write_whole(output / "compare.json", lambda stream: stream.write(text.encode()))
        write_whole(output / "compare.png", lambda stream: comparison.plot(rows, stream))
    if json_:
        print(text)
        return
    from rich import box
    from rich.table import Table

    header, *lines = comparison.table(rows, risk)
    made = Table(box=box.SIMPLE, pad_edge=False)
    for number, column in enumerate(header):
        made.add_column(column, justify="left" if number < 3 else "right", no_wrap=number < 5)
    for line in lines:
        made.add_row(*line)
    console = terminal.console(width=max(terminal.console().width, 170))  # figures are never cut off
    console.print(made)
    console.print(f"{len(asked)} questions of {data.name}; in brackets 95 % intervals by bootstrap over pictures")
    if taken is None:
        console.print(f"take none: no bundle is within {budget:g} MB")
    else:
        within = f"within {budget:g} MB " if budget is not None else ""
        told = f"it answers {taken.coverage.value:.1%} of the questions at {risk:.0%} risk, by {taken.confidence}"
        console.print(
            f"take {taken.name} ({taken.bytes / 1e6:.1f} MB): {within}{told}; none that is smaller answers about as many"
        )


def main() -> None:
    run(app, "edge-vqa-convert")


if __name__ == "__main__":
    main()
