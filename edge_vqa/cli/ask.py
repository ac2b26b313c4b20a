"""`edge-vqa ask` and `edge-vqa chat`: questions about a picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import Asking, DebugOption, Loading, spread
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.answer import Answer, Event

ABSTAINED = 3
EARLY = "selector-early"

app = typer.Typer()


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa ask photo.jpg "what is this?"\n
  edge-vqa ask photo.jpg "is there a dog?" --risk 0.05   [dim]# wrong at most 1 time in 20[/dim]\n
  edge-vqa ask photo.jpg "what is this?" --early         [dim]# abstains before it decodes an answer[/dim]\n
  edge-vqa ask photo.jpg "how much is it?" --detail auto  [dim]# looks closer only when unsure[/dim]\n
  edge-vqa ask photo.jpg "what is this?" --json | jq .confidence\n
  edge-vqa ask left.jpg right.jpg "which one is larger?"  [dim]# with a model that takes several pictures[/dim]\n
  edge-vqa ask --camera "is the door open?"\n
  curl -s http://camera.local/still.jpg | edge-vqa ask - "is the door open?"\n\n
Exit status: 0 answered, 3 abstained, 1 failed, 2 wrong usage.
"""
)
@spread
def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE... QUESTION",
            help="The picture, or several: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000; - reads it from standard"
            " input. Then the question, in quotes.",
        ),
    ],
    *,
    asking: Asking,
    loading: Loading,
    camera: Annotated[bool, typer.Option("--camera", help="Take the picture with the camera; give the question only.")] = False,
    camera_device: Annotated[
        str | None, typer.Option("--camera-device", metavar="FILE", help="Which one, as /dev/video2 (default: the first).")
    ] = None,
    early: Annotated[
        bool, typer.Option("--early", help="Decide after the first token: abstain at once, or print tokens as they come.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come, before the gate decides.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let llama.cpp's own log through to stderr.")] = False,
    debug: DebugOption = False,
) -> None:
    """Ask a question about a picture, or about several."""
    del debug  # read by program.run
    if early:
        if loading.confidence not in (None, EARLY) or stream:
            raise typer.BadParameter("--early streams what it trusts, with the method selector-early; give it alone")
        loading = replace(loading, confidence=EARLY)
    show = _show(loading, asking, stream=stream, json_=json_)
    *images, question = words
    if camera and images:
        raise typer.BadParameter("--camera takes the picture: give the question only")
    if not images and not camera:
        raise typer.BadParameter("a picture and a question are needed, or --camera and a question", param_hint="QUESTION")
    if len(images) > 1 and (missing := [image for image in images if not Path(image).is_file()]):
        raise typer.BadParameter(f"{missing[0]} is no file; a question of several words goes in quotes", param_hint="IMAGE")

    from edge_vqa.llm.prompt import clean_question
    from edge_vqa.native import bindings
    from edge_vqa.pictures.open import open_picture

    bindings.set_verbose(verbose)
    asked = clean_question(question)  # bad input is told before a model is loaded
    picture = open_picture([_picture(image, camera, camera_device) for image in images or [""]])
    with loading.loaded() as model:
        manifest = model.bundle.manifest
        if picture.more and manifest.prompt.joint is not None and manifest.operating_points:
            terminal.tell("edge-vqa: thresholds were chosen on questions about one picture; for several they promise nothing")
        terminal.busy("looking at the picture ...")
        answer = _tell(model.stream(picture, asked, **asking.how()), show)
    if answer.abstained:
        raise typer.Exit(ABSTAINED)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa chat photo.jpg\n
  edge-vqa chat photo.jpg --risk 0.05\n
  edge-vqa chat photo.jpg --json < questions.txt > answers.jsonl\n\n
One question a line; an empty line, or the end of the input, ends it. Earlier questions are not remembered.\n
Exit status: 0, or 1 if a question could not be asked.
"""
)
@spread
def chat(
    image: Annotated[str, typer.Argument(help="The picture.")],
    *,
    asking: Asking,
    loading: Loading,
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come, before the gate decides.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON object a question.")] = False,
    debug: DebugOption = False,
) -> None:
    """Ask many questions about one picture, which is encoded once."""
    del debug  # read by program.run
    show = _show(loading, asking, stream=stream, json_=json_)

    from edge_vqa.pictures.open import open_picture

    picture, failed = open_picture(image), False
    with loading.loaded() as model:
        model.plan(**asking.how())  # what is wrong with it is said once, not on every line
        terminal.busy("looking at the picture ...")
        opened = model.open(picture, detail=asking.detail)
        terminal.busy("")
        for asked in _lines():
            try:
                _tell(opened.stream(asked, **asking.how()), show)
            except EdgeVqaError as error:
                failed = True
                terminal.tell(f"edge-vqa: {error}")
    if failed:
        raise typer.Exit(1)


def _picture(image: str, camera: bool, camera_device: str | None) -> str | bytes:
    """Where the picture is, or its bytes."""
    if camera:
        from edge_vqa.pictures import camera as cameras

        terminal.busy("taking a picture ...")
        return cameras.take(camera_device)
    if image != "-":
        return image
    if sys.stdin.isatty():
        raise EdgeVqaError("no picture comes from standard input", "pipe one in: edge-vqa ask - QUESTION < photo.jpg")
    from edge_vqa.pictures.open import MAX_BYTES

    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _lines() -> Iterator[str]:
    """Questions from stdin until an empty line; on a terminal with a prompt, and with what readline offers."""
    from edge_vqa.llm.prompt import MOST_CHARACTERS

    asking = sys.stdin.isatty()
    if asking:
        with suppress(ImportError):
            import readline  # noqa: F401 - input() edits lines and remembers them once it is there
    elif isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")
    while True:
        try:
            line = input("> ") if asking else sys.stdin.readline(MOST_CHARACTERS + 2)
        except EOFError:
            terminal.say()
            return
        if len(line) > MOST_CHARACTERS + 1:
            raise EdgeVqaError("a line of standard input has no end", "give one question a line")
        if not line.strip():
            return
        yield line.strip()


@dataclass(frozen=True)
class Show:
    """What to print of a question. stream: tokens before the gate has decided; final: tokens that are trusted already."""

    stream: bool
    final: bool
    json: bool
    candidate: bool


def _show(loading: Loading, asking: Asking, *, stream: bool, json_: bool) -> Show:
    if stream and json_:
        raise typer.BadParameter("--stream and --json exclude each other")
    early = loading.confidence == EARLY
    if early and asking.show_candidate:
        raise typer.BadParameter("selector-early abstains before there is a candidate to show")
    return Show(stream, early and not json_, json_, asking.show_candidate)


def _tell(events: Iterator[Event], show: Show) -> Answer:
    """Print what comes of a question."""
    from edge_vqa.answer import Token
    from edge_vqa.work import told

    answer: Answer | None = None
    waiting = True
    for event in events:
        first, waiting = waiting, False
        if first:
            terminal.busy("provisional: " if show.stream else "")
        if not isinstance(event, Token):
            answer = event.answer
        elif show.stream or show.final:
            terminal.say(event.text.lstrip() if first else event.text, lines=True, end="", flush=True)
    assert answer is not None
    if show.json:
        terminal.print_json(told.as_object(answer, show_candidate=show.candidate))
        return answer
    if show.stream or (show.final and answer.text is not None):
        terminal.say()
    elif answer.text is not None:
        terminal.say(answer.text, lines=True)
    sys.stdout.flush()
    terminal.tell(answer.in_words(show_candidate=show.candidate and not show.stream))
    return answer
