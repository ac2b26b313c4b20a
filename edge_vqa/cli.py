"""The `edge-vqa` command: parses, prints, exits. No logic; everything else is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_vqa import __version__, cli_device, cli_models, terminal
from edge_vqa.cli_options import (
    CacheOption,
    CandidateOption,
    ConfidenceOption,
    ContextOption,
    DebugOption,
    DetailOption,
    DeviceOption,
    KvOption,
    MemoryOption,
    ModelOption,
    NoGateOption,
    RiskOption,
    SkipOption,
    ThenOption,
    ThreadsOption,
    ThresholdOption,
    TogetherOption,
    TokensOption,
    VisionOption,
    WatchOption,
    check,
)
from edge_vqa.errors import EdgeVqaError, run

if TYPE_CHECKING:
    from edge_vqa.answer import Answer, Event
    from edge_vqa.model import Model
    from edge_vqa.questions import Question

ABSTAINED = 3
EARLY = "selector-early"

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


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa ask photo.jpg "what is this?"\n
  edge-vqa ask photo.jpg "is there a dog?" --risk 0.05   [dim]# wrong at most 1 time in 20[/dim]\n
  edge-vqa ask photo.jpg "what is this?" --early         [dim]# abstains before it decodes an answer[/dim]\n
  edge-vqa ask photo.jpg "how much is it?" --detail auto  [dim]# looks closer only when unsure[/dim]\n
  edge-vqa ask photo.jpg "what is this?" --json | jq .confidence\n
  edge-vqa ask --camera "is the door open?"\n
  curl -s http://camera.local/still.jpg | edge-vqa ask - "is the door open?"\n\n
Exit status: 0 answered, 3 abstained, 1 failed, 2 wrong usage.
"""
)
def ask(
    image: Annotated[
        str,
        typer.Argument(
            help="The picture: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000; - reads it from standard input."
        ),
    ],
    question: Annotated[str | None, typer.Argument(help="The question, in quotes.", show_default=False)] = None,
    model: ModelOption = None,
    camera: Annotated[bool, typer.Option("--camera", help="Take the picture with the camera; give the question only.")] = False,
    camera_device: Annotated[
        str | None, typer.Option("--camera-device", metavar="FILE", help="Which one, as /dev/video2 (default: the first).")
    ] = None,
    risk: RiskOption = None,
    threshold: ThresholdOption = None,
    no_gate: NoGateOption = False,
    show_candidate: CandidateOption = False,
    confidence: ConfidenceOption = None,
    early: Annotated[
        bool, typer.Option("--early", help="Decide after the first token: abstain at once, or print tokens as they come.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come, before the gate decides.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    detail: DetailOption = None,
    then: ThenOption = None,
    vision: VisionOption = None,
    threads: ThreadsOption = None,
    max_tokens: TokensOption = None,
    cache_dir: CacheOption = None,
    memory_limit: MemoryOption = None,
    context: ContextOption = None,
    kv_type: KvOption = None,
    device: DeviceOption = None,
    watch: WatchOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let llama.cpp's own log through to stderr.")] = False,
    debug: DebugOption = False,
) -> None:
    """Ask a question about a picture."""
    del debug  # read by errors.run
    if stream and json_:
        raise typer.BadParameter("--stream and --json exclude each other")
    if early:
        if confidence not in (None, EARLY) or stream:
            raise typer.BadParameter("--early streams what it trusts, with the method selector-early; give it alone")
        confidence = EARLY
    if confidence == EARLY and show_candidate:
        raise typer.BadParameter("selector-early abstains before there is a candidate to show")
    if camera and question is not None:
        raise typer.BadParameter("--camera takes the picture: give the question only")
    final = confidence == EARLY and not json_  # tokens that come are trusted already
    check(risk, threshold, no_gate, detail)

    from edge_vqa import native
    from edge_vqa.picture import open_picture
    from edge_vqa.prompt import clean_question

    native.set_verbose(verbose)
    if camera:
        image, question = "", question or image
    elif question is None:
        raise typer.BadParameter("a picture and a question are needed, or --camera and a question", param_hint="QUESTION")
    asked = clean_question(question)  # bad input is told before a model is loaded
    picture = open_picture(_picture(image, camera, camera_device))
    with _loaded(
        model,
        confidence=confidence,
        vision=vision,
        threads=threads,
        context=context,
        kv_type=kv_type,
        device=device,
        memory_limit=memory_limit,
        watch=watch,
        cache_dir=cache_dir,
        then=then,
    ) as loaded:
        terminal.busy("looking at the picture ...")
        events = loaded.stream(
            picture, asked, risk=risk, threshold=threshold, gate=not no_gate, detail=detail, max_tokens=max_tokens
        )
        answer = _tell(events, stream=stream, final=final, json_=json_, show_candidate=show_candidate)
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
def chat(
    image: Annotated[str, typer.Argument(help="The picture.")],
    model: ModelOption = None,
    risk: RiskOption = None,
    threshold: ThresholdOption = None,
    no_gate: NoGateOption = False,
    show_candidate: CandidateOption = False,
    confidence: ConfidenceOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come, before the gate decides.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON object a question.")] = False,
    detail: DetailOption = None,
    then: ThenOption = None,
    vision: VisionOption = None,
    threads: ThreadsOption = None,
    max_tokens: TokensOption = None,
    cache_dir: CacheOption = None,
    memory_limit: MemoryOption = None,
    context: ContextOption = None,
    kv_type: KvOption = None,
    device: DeviceOption = None,
    watch: WatchOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask many questions about one picture, which is encoded once."""
    del debug  # read by errors.run
    if stream and json_:
        raise typer.BadParameter("--stream and --json exclude each other")
    if confidence == EARLY and show_candidate:
        raise typer.BadParameter("selector-early abstains before there is a candidate to show")
    check(risk, threshold, no_gate, detail)

    from edge_vqa.picture import open_picture

    picture, failed = open_picture(image), False
    with _loaded(
        model,
        confidence=confidence,
        vision=vision,
        threads=threads,
        context=context,
        kv_type=kv_type,
        device=device,
        memory_limit=memory_limit,
        watch=watch,
        cache_dir=cache_dir,
        then=then,
    ) as loaded:
        how: dict[str, Any] = {"risk": risk, "threshold": threshold, "gate": not no_gate, "max_tokens": max_tokens}
        loaded.plan(detail=detail, **how)  # what is wrong with it is said once, not on every line
        terminal.busy("looking at the picture ...")
        opened = loaded.open(picture, detail=detail)
        terminal.busy("")
        for asked in _lines():
            try:
                events = opened.stream(asked, **how)
                _tell(
                    events, stream=stream, final=confidence == EARLY and not json_, json_=json_, show_candidate=show_candidate
                )
            except EdgeVqaError as error:
                failed = True
                terminal.tell(f"edge-vqa: {error}")
    if failed:
        raise typer.Exit(1)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa batch questions.jsonl -o answers.jsonl\n
  edge-vqa batch questions.jsonl -o answers.jsonl --risk 0.1 --skip-missing\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?"}; image relative to the file.
A line of ANSWERS has the same question_id, and answer, abstained, confidence, ...; or error.\n
Interrupted? The same command again goes on where it stopped; a question or picture changed since is asked again.\n
Exit status: 0 all asked, 1 some failed, 2 wrong usage.
"""
)
def batch(
    questions: Annotated[Path, typer.Argument(help="Questions, JSON lines.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ANSWERS.jsonl", help="Where the answers go.")],
    model: ModelOption = None,
    risk: RiskOption = None,
    threshold: ThresholdOption = None,
    no_gate: NoGateOption = False,
    show_candidate: CandidateOption = False,
    confidence: ConfidenceOption = None,
    skip_missing: SkipOption = False,
    together: TogetherOption = None,
    detail: DetailOption = None,
    then: ThenOption = None,
    vision: VisionOption = None,
    threads: ThreadsOption = None,
    max_tokens: TokensOption = None,
    cache_dir: CacheOption = None,
    memory_limit: MemoryOption = None,
    context: ContextOption = None,
    kv_type: KvOption = None,
    device: DeviceOption = None,
    watch: WatchOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask all questions of a file; goes on where it was interrupted."""
    del debug  # read by errors.run
    check(risk, threshold, no_gate, detail)

    from edge_vqa import batch as batches

    asked, missing = _questions(questions, skip_missing)
    settings = batches.Settings(risk, threshold, not no_gate, detail, max_tokens, show_candidate)
    with (
        _loaded(
            model,
            sequences=together,
            confidence=confidence,
            vision=vision,
            threads=threads,
            context=context,
            kv_type=kv_type,
            device=device,
            memory_limit=memory_limit,
            watch=watch,
            cache_dir=cache_dir,
            then=then,
        ) as loaded,
        terminal.progress() as bars,
    ):
        task = bars.add_task("asking", total=len(asked))
        outcome = batches.run(loaded, asked, output, settings, lambda done: bars.update(task, completed=len(done)))
    left_out = f", {len(missing)} left out: no picture" if missing else ""
    again = f"; {outcome.again} asked again, whose question or picture was changed" if outcome.again else ""
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
  edge-vqa eval questions.jsonl -o report/ --model mine --skip-missing\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?", "answers": ["dog"]}.\n
Interrupted? The same command again goes on where it stopped (answers.jsonl in the folder).
""",
)
def eval_(
    questions: Annotated[Path, typer.Argument(help="Questions with answers, JSON lines.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPORT/", help="Folder for the report.")],
    model: ModelOption = None,
    confidence: ConfidenceOption = None,
    skip_missing: SkipOption = False,
    vision: VisionOption = None,
    device: DeviceOption = None,
    together: TogetherOption = None,
    threads: ThreadsOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print metrics.json.")] = False,
    debug: DebugOption = False,
) -> None:
    """Measure accuracy and reliability on labelled questions, and write a report."""
    del debug  # read by errors.run

    from edge_vqa import batch as batches
    from edge_vqa import evaluation, report

    asked, missing = _questions(questions, skip_missing, labelled=True)
    if output.exists() and not output.is_dir():
        raise EdgeVqaError(f"{output} is not a folder", "choose another place")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeVqaError(f"{output} cannot be made ({error.strerror})", "choose another place") from None
    with (
        _loaded(model, confidence=confidence, vision=vision, device=device, threads=threads, sequences=together) as loaded,
        terminal.progress() as bars,
    ):
        bundle = loaded.bundle
        task = bars.add_task("asking", total=len(asked))
        settings, answers = batches.Settings(gate=False), output / "answers.jsonl"
        batches.run(loaded, asked, answers, settings, lambda done: bars.update(task, completed=len(done)))
        judged, cases = evaluation.judge(asked, answers)
        task = bars.add_task("intervals", total=None)
        found = evaluation.evaluate(
            judged, bundle.manifest.operating_points, lambda done, total: bars.update(task, completed=done, total=total)
        )
    subject = report.Subject(bundle.name, questions.stem, len(asked) - len(cases), len(missing))
    files = report.write(output, subject, found, judged, cases)
    if json_:
        print(report.as_json(subject, found), end="")
        return
    for line in report.lines(found):
        terminal.say(line)
    terminal.tell(f"{files[-1]}")


def _questions(path: Path, skip_missing: bool, *, labelled: bool = False) -> tuple[list[Question], list[Question]]:
    """Questions to ask, and those left out because their picture is missing."""
    from edge_vqa import questions as files

    return files.present(files.read(path, labelled=labelled), path, skip_missing=skip_missing)


def _picture(image: str, camera: bool, camera_device: str | None) -> str | bytes:
    """Where the picture is, or its bytes."""
    if camera:
        from edge_vqa import camera as cameras

        terminal.busy("taking a picture ...")
        return cameras.take(camera_device)
    if image != "-":
        return image
    if sys.stdin.isatty():
        raise EdgeVqaError("no picture comes from standard input", "pipe one in: edge-vqa ask - QUESTION < photo.jpg")
    from edge_vqa.picture import MAX_BYTES

    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _lines() -> Iterator[str]:
    """Questions from stdin until an empty line; on a terminal with a prompt, and with what readline offers."""
    from edge_vqa.prompt import MOST_CHARACTERS

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


@contextmanager
def _loaded(model: str | None, *, memory_limit: int | None = None, watch: bool = False, **options: Any) -> Iterator[Model]:
    """The model, with what the user should know of it on stderr. memory_limit: in MB."""
    from edge_vqa.model import load

    terminal.busy(f"loading {model or 'the embedded model'} ...")
    limit = memory_limit and memory_limit * 10**6
    with load(model, memory_limit=limit, watch=watch or None, **options) as loaded:
        terminal.busy("")
        told = _warn(loaded.warnings)
        yield loaded
        _warn(loaded.warnings[told:])  # of a second model that was needed


def _warn(warnings: Sequence[str]) -> int:
    for warning in warnings:
        terminal.tell(f"edge-vqa: {warning}")
    return len(warnings)


def _tell(events: Iterator[Event], *, stream: bool, final: bool, json_: bool, show_candidate: bool) -> Answer:
    """Print what comes of a question: stream, tokens before the gate has decided; final, tokens that are trusted already."""
    from edge_vqa.answer import Token

    answer: Answer | None = None
    waiting = True
    for event in events:
        first, waiting = waiting, False
        if first:
            terminal.busy("provisional: " if stream else "")
        if not isinstance(event, Token):
            answer = event.answer
        elif stream or final:
            terminal.say(event.text.lstrip() if first else event.text, lines=True, end="", flush=True)
    assert answer is not None
    if json_:
        terminal.print_json(as_json(answer, show_candidate=show_candidate))
        return answer
    if stream or (final and answer.text is not None):
        terminal.say()
    elif answer.text is not None:
        terminal.say(answer.text, lines=True)
    sys.stdout.flush()
    terminal.tell(verdict(answer, show_candidate=show_candidate and not stream))
    return answer


def verdict(answer: Answer, *, show_candidate: bool = False) -> str:
    """One line on how the answer was judged."""
    # nobody is sure, and nothing impossible: 1.00 and 0.00 would say so
    value = (
        "over 0.99" if answer.confidence >= 0.995 else "below 0.01" if answer.confidence < 0.005 else f"{answer.confidence:.2f}"
    )
    confidence = f"confidence {value}"
    if answer.threshold is None:
        limit = "always answered (--no-gate)" if not answer.abstained else "no threshold keeps the risk: always abstains"
    else:
        sign = "below" if answer.abstained else "at least"
        limit = f"{sign} {answer.threshold:.2f}"
        if answer.risk_target is not None:
            limit += f", the threshold for {answer.risk_target:.0%} risk"
    note = "" if answer.calibrated else "; uncalibrated"
    said = f"not answered: {confidence}" if answer.abstained else confidence
    guess = f'; the guess was "{answer.candidate}"' if answer.abstained and show_candidate else ""
    return f"{said}, {limit}{note}{guess}"


def as_json(answer: Answer, *, show_candidate: bool) -> dict[str, Any]:
    """The object that `ask --json` prints; its keys are a contract."""
    timings = answer.timings
    return {
        "answer": answer.text,
        "candidate": answer.candidate if show_candidate or not answer.abstained else None,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "confidence_method": answer.confidence_method,
        "threshold": answer.threshold,
        "risk_target": answer.risk_target,
        "calibrated": answer.calibrated,
        "maxprob": answer.maxprob,
        "model": answer.model,
        "tokens": [
            {"text": token.text, "logprob": token.logprob, "entropy": token.entropy}
            for token in answer.trace.tokens
            if show_candidate or not answer.abstained
        ],
        "timings": {
            "load_s": timings.load_s,
            "image_s": timings.image_s,
            "prompt_s": timings.prompt_s,
            "decode_s": timings.decode_s,
            "gate_s": timings.gate_s,
            "total_s": timings.total_s,
        },
        "image_tokens": answer.trace.image_tokens,
        "prompt_tokens": answer.trace.prompt_tokens,
    }


app.add_typer(cli_device.app)
app.add_typer(cli_models.app, name="models")


def main() -> None:
    run(app, "edge-vqa")


if __name__ == "__main__":
    main()
