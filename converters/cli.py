"""The `edge-vqa-convert` command: parses, prints, exits. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_vqa.errors import EdgeVqaError, run

app = typer.Typer(
    name="edge-vqa-convert",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa-convert recipes/mini/checkpoint -o mini-q4 --quant rtn:q4_k_m\n
  edge-vqa-convert SmolVLM-256M-Instruct -o smolvlm --quant rtn:q8_0 --instruction "Answer briefly."
"""
)
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint (Idefics3, SmolVLM, SmolVLM2).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Folder of the new bundle.")],
    quant: Annotated[
        str,
        typer.Option(metavar="METHOD:TYPE", help="How the LM is stored: rtn: f32 f16 bf16 q8_0 q4_0 q4_1 q4_k_m q3_k_m."),
    ] = "rtn:q4_k_m",
    vision_type: Annotated[
        str, typer.Option(metavar="TYPE", help="How the vision tower is stored: f32 f16 q8_0 q4_0.")
    ] = "f16",
    name: Annotated[str | None, typer.Option(help="Name of the bundle (default: the folder's).")] = None,
    version: Annotated[str, typer.Option("--bundle-version", help="Version of the bundle.")] = "1",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "unknown",
    description: Annotated[str, typer.Option(help="One line about the bundle.")] = "",
    source: Annotated[str | None, typer.Option(help="Where the checkpoint comes from (default: its folder's name).")] = None,
    revision: Annotated[str, typer.Option(help="Its revision.")] = "",
    instruction: Annotated[str, typer.Option(help="Text put behind every question.")] = "",
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer.")] = 32,
    detail: Annotated[str, typer.Option(metavar="low|high", help="Default detail of pictures.")] = "low",
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads (default: all).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Convert a Hugging Face checkpoint into a bundle for `edge-vqa ask --model`."""
    del debug
    try:
        import gguf  # noqa: F401
        import jinja2  # noqa: F401
    except ImportError as error:
        raise EdgeVqaError(f"{error.name} is not installed", 'pip install "edge-vqa[convert]"') from None
    from rich.console import Console
    from rich.progress import Progress

    from converters.convert import Options, convert
    from edge_vqa.device import cores

    options = Options(
        quant=quant,
        vision_type=vision_type,
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
    )
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bars:
        tasks: dict[str, object] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)  # type: ignore[arg-type]

        manifest = convert(checkpoint, output, options, report)
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    quantisation = manifest.quantisation
    print(f"{output}: {size:.2f} MB, {quantisation.bits_per_weight:.2f} bits a weight in the LM")
    print(f'try it: edge-vqa ask photo.jpg "what is this?" --model {output}')


def main() -> None:
    run(app, "edge-vqa-convert")


if __name__ == "__main__":
    main()
