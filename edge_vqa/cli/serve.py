"""`edge-vqa serve`: a bundle over HTTP."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption, Loading, TogetherOption, spread
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.model import Model

TOKEN = "EDGE_VQA_TOKEN"
PICTURES = 256  # encoded ones to keep, if memory allows

app = typer.Typer()


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa serve                                      [dim]# then open http://127.0.0.1:8080[/dim]\n
  edge-vqa serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"\n
  edge-vqa serve --allow-urls camera.local            [dim]# fetches pictures from there[/dim]\n
  curl -F image=@photo.jpg -F question="what is this?" 127.0.0.1:8080/ask\n
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1            [dim]# for every program that speaks OpenAI's protocol[/dim]\n\n
Exit status: 0 when it was ended by Ctrl-C or SIGTERM, 1 if it could not start.
"""
)
@spread
def serve(
    *,
    loading: Loading,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for one that is free.")] = 8080,
    token: Annotated[
        str | None, typer.Option(envvar=TOKEN, metavar="T", help="Answer only requests that bear it.", show_envvar=True)
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Answer everybody who reaches another address than loopback.")] = False,
    allow_urls: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Fetch pictures from this host; may be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this site ask, as https://example.org; may be repeated."),
    ] = None,
    max_body: Annotated[int, typer.Option(metavar="MB", min=1, max=1024, help="Largest request.")] = 32,
    queue: Annotated[int, typer.Option(metavar="N", min=1, max=10000, help="Questions that may wait.")] = 128,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=1, help="Seconds that a question may take, waiting included.")
    ] = 120,
    together: TogetherOption = None,
    log_questions: Annotated[
        bool, typer.Option("--log-questions", help="Write questions into the log; pictures never are.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Answer over HTTP: OpenAI's protocol with the verdict in it, a plain form, and a page for people."""
    del debug  # read by program.run
    try:
        from edge_vqa.serve import run
        from edge_vqa.serve.app import Limits
    except ImportError as error:
        raise EdgeVqaError(f"serving needs {error.name}, which is not installed", 'pip install "edge-vqa[serve]"') from None
    if token is not None and not token.strip():
        raise EdgeVqaError("the token is empty", f"give --token T, or unset {TOKEN}")
    if host not in run.LOOPBACK and token is None and not open_:
        raise EdgeVqaError(f"everybody who reaches {host} could ask", "give --token T, or --open if that is what you want")
    limits = Limits(queue, timeout, max_body * 2**20, tuple(allow_urls or ()), tuple(allow_origin or ()), log_questions)

    def load() -> Model:
        return loading.model_for(sequences=together, pictures=PICTURES)

    terminal.busy(f"loading {loading.model or 'the default model'} ...")
    run.serve(load, host, port, token=token, limits=limits, tell=_tell)


def _tell(line: str) -> None:
    terminal.busy("")
    terminal.tell(line)
    sys.stderr.flush()
