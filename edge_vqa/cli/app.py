"""The `edge-vqa` command, put together of its groups."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_vqa import __version__
from edge_vqa.cli import ask, batch, device, models, serve

app = typer.Typer(
    name="edge-vqa",
    help="Ask questions about pictures on a small device: an answer to rely on, or an honest abstention.",
    epilog='Example: edge-vqa ask photo.jpg "what is this?"',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"edge-vqa {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for group in (ask, batch, serve, device):
    app.add_typer(group.app)
app.add_typer(models.app, name="models")
