"""The `edge-vqa` command: parses, prints, exits. No logic; everything else is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_vqa import __version__, terminal
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
models_app = typer.Typer(help="List, show, verify and download bundles.", no_args_is_help=True)
app.add_typer(models_app, name="models")

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME|FOLDER", help="Bundle to ask (default: the embedded one).")
]
RiskOption = Annotated[
    float | None,
    typer.Option("--risk", metavar="R", help="Share of wrong answers to accept, from the bundle's operating points."),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", metavar="T", help="Answer when the confidence is at least T (uncalibrated)."),
]
NoGateOption = Annotated[bool, typer.Option("--no-gate", help="Always answer, however unsure.")]
CandidateOption = Annotated[bool, typer.Option("--show-candidate", help="When abstaining, show what would have been said.")]
DetailOption = Annotated[
    str | None,
    typer.Option(
        "--detail",
        metavar="low|high|auto",
        help="One tile, slices too, or slices only where one tile abstains (default: the bundle's).",
    ),
]
ThenOption = Annotated[
    str | None,
    typer.Option("--then", metavar="NAME|FOLDER", help="Larger bundle, loaded and asked where the first one abstains."),
]
VisionOption = Annotated[
    str | None,
    typer.Option("--vision", metavar="mtmd|onnx", help="What runs the vision tower (default: the faster one that there is)."),
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache-dir", metavar="FOLDER", help="Keep encoded pictures there for the next time.")
]
MemoryOption = Annotated[
    int | None,
    typer.Option("--memory-limit", metavar="MB", min=1, help="Refuse, before loading it, a bundle that needs more."),
]
ContextOption = Annotated[
    int | None,
    typer.Option("--context", metavar="N", help="Tokens of the KV cache (default: room for the largest picture)."),
]
KvOption = Annotated[
    str | None, typer.Option("--kv-type", metavar="TYPE", help="KV cache: f16 (the default), or q8_0 for half of it.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Device profile (default: that of this machine; see doctor).")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="CPU threads (default: as tuned, else by model size).")
]
TokensOption = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Longest answer (default: the bundle's).")]
ConfidenceOption = Annotated[
    str | None,
    typer.Option(
        "--confidence",
        metavar="METHOD",
        help="maxprob, mean-logprob, entropy, margin, temperature, selector or selector-early (default: the bundle's best).",
    ),
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Count confidences, nothing else, for edge-vqa doctor.")]
TogetherOption = Annotated[
    int | None,
    typer.Option(
        "--together", metavar="N", min=1, max=64, help="Questions that are decoded together (default: as tuned, else 8)."
    ),
]
SkipOption = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions whose picture is missing.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]


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
        str, typer.Argument(help="The picture: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or AVIF; - reads it from standard input.")
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
    _check(risk, threshold, no_gate, detail)

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
        _busy("looking at the picture ...")
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
    image: Annotated[Path, typer.Argument(help="The picture.")],
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
    _check(risk, threshold, no_gate, detail)

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
        _busy("looking at the picture ...")
        opened = loaded.open(picture, detail=detail)
        _busy("")
        for asked in _lines():
            try:
                events = opened.stream(asked, **how)
                _tell(
                    events, stream=stream, final=confidence == EARLY and not json_, json_=json_, show_candidate=show_candidate
                )
            except EdgeVqaError as error:
                failed = True
                print(f"edge-vqa: {error}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@app.command(
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa batch questions.jsonl -o answers.jsonl\n
  edge-vqa batch questions.jsonl -o answers.jsonl --risk 0.1 --skip-missing\n\n
A line of QUESTIONS: {"question_id": "1", "image": "a.jpg", "question": "what is this?"}; image relative to the file.
A line of ANSWERS has the same question_id, and answer, abstained, confidence, ...; or error.\n
Interrupted? The same command again goes on where it stopped.\n
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
    _check(risk, threshold, no_gate, detail)

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
    print(
        f"{output}: {outcome.answered} answered, {outcome.abstained} abstained, {outcome.failed} failed{left_out}",
        file=sys.stderr,
    )
    if outcome.failed:
        print(f"edge-vqa: first failure: {outcome.first_failure}", file=sys.stderr)
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
        print(line)
    print(f"{files[-1]}", file=sys.stderr)


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

    from edge_vqa import doctor as doctors

    _busy("looking ...")
    findings = []
    for finding in doctors.examine(model, confidence=confidence, device=device):
        findings.append(finding)
        if not json_:
            _busy("")
            todo = f"; {finding.todo}" if finding.todo else ""
            print(f"{finding.level:8} {finding.about:12} {finding.text}{todo}", flush=True)
            _busy("looking ...")
    _busy("")
    if json_:
        _print_json([asdict(finding) for finding in findings])
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
    _check(None, None, False, detail)

    from edge_vqa import bench as benches
    from edge_vqa import bench_tables as tables
    from edge_vqa import bundle as bundles
    from edge_vqa.model import Options

    if compare:
        short = compare[0].stem != compare[1].stem
        tables.print_comparison([(path.stem if short else str(path), benches.read(path)) for path in compare])
        return
    if output is not None and not output.resolve().parent.is_dir():
        raise EdgeVqaError(f"{output.parent} is no folder", "choose another place for the result")
    bundle = bundles.read(model)
    bundles.verify(bundle)
    options = Options(device=device, vision=vision, threads=threads, context=context, kv_type=kv_type)
    with terminal.progress() as bars:
        if tune:
            tuned = benches.tune(bundle, options, terminal.steps(bars))
        else:
            work = benches.Bench(bundle, options, detail=detail, repeat=repeat)
            try:
                work.run(terminal.steps(bars))
            finally:
                result = work.report()
                if result.figures:
                    print(f"kept in {benches.save(result, output)}", file=sys.stderr)
    if tune:
        if json_:
            from dataclasses import asdict

            _print_json(asdict(tuned))
        else:
            tables.print_tuned(tuned)
        return
    if json_:
        print(benches.as_json(result), end="")
    else:
        tables.print_report(result)


def _questions(path: Path, skip_missing: bool, *, labelled: bool = False) -> tuple[list[Question], list[Question]]:
    """Questions to ask, and those left out because their picture is missing."""
    from edge_vqa import questions as files

    return files.present(files.read(path, labelled=labelled), path, skip_missing=skip_missing)


def _picture(image: str, camera: bool, camera_device: str | None) -> Path | bytes:
    """Where the picture is, or its bytes."""
    if camera:
        from edge_vqa import camera as cameras

        _busy("taking a picture ...")
        return cameras.take(camera_device)
    if image != "-":
        return Path(image)
    if sys.stdin.isatty():
        raise EdgeVqaError("no picture comes from standard input", "pipe one in: edge-vqa ask - QUESTION < photo.jpg")
    from edge_vqa.picture import MAX_BYTES

    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _check(risk: float | None, threshold: float | None, no_gate: bool, detail: str | None) -> None:
    if (risk is not None) + (threshold is not None) + no_gate > 1:
        raise typer.BadParameter("--risk, --threshold and --no-gate exclude each other")
    if detail not in (None, "low", "high", "auto"):
        raise typer.BadParameter("use low, high or auto", param_hint="--detail")


def _lines() -> Iterator[str]:
    """Questions from stdin until an empty line; on a terminal with a prompt, and with what readline offers."""
    asking = sys.stdin.isatty()
    if asking:
        with suppress(ImportError):
            import readline  # noqa: F401 - input() edits lines and remembers them once it is there
    while True:
        try:
            line = input("> " if asking else "").strip()
        except EOFError:
            if asking:
                print()
            return
        if not line:
            return
        yield line


@contextmanager
def _loaded(model: str | None, *, memory_limit: int | None = None, watch: bool = False, **options: Any) -> Iterator[Model]:
    """The model, with what the user should know of it on stderr. memory_limit: in MB."""
    from edge_vqa.model import load

    _busy(f"loading {model or 'the embedded model'} ...")
    limit = memory_limit and memory_limit * 10**6
    with load(model, memory_limit=limit, watch=watch or None, **options) as loaded:
        _busy("")
        for warning in loaded.warnings:
            print(f"edge-vqa: {warning}", file=sys.stderr)
        yield loaded


def _tell(events: Iterator[Event], *, stream: bool, final: bool, json_: bool, show_candidate: bool) -> Answer:
    """Print what comes of a question: stream, tokens before the gate has decided; final, tokens that are trusted already."""
    from edge_vqa.answer import Token

    answer: Answer | None = None
    waiting = True
    for event in events:
        first, waiting = waiting, False
        if first:
            _busy("provisional: " if stream else "")
        if not isinstance(event, Token):
            answer = event.answer
        elif stream or final:
            print(event.text.lstrip() if first else event.text, end="", flush=True)
    assert answer is not None
    if json_:
        _print_json(as_json(answer, show_candidate=show_candidate))
        return answer
    if stream or (final and answer.text is not None):
        print()
    elif answer.text is not None:
        print(answer.text)
    sys.stdout.flush()
    print(verdict(answer, show_candidate=show_candidate and not stream), file=sys.stderr)
    return answer


def _busy(doing: str) -> None:
    """What is going on, on a terminal only; an empty text wipes it away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{doing}")
        sys.stderr.flush()


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


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False))


@models_app.command("list", epilog="Example: edge-vqa models list")
def models_list(
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False, debug: DebugOption = False
) -> None:
    """List the bundles that --model knows by name."""
    del debug
    from edge_vqa import bundle as bundles

    rows = []
    for name in bundles.known():
        try:
            found = bundles.read(name)
            quantisation = found.manifest.quantisation
            rows.append(
                {
                    "name": name,
                    "megabytes": round(found.bytes / 1e6, 1),
                    "quantisation": f"{quantisation.method}:{quantisation.type}",
                    "description": found.manifest.description,
                }
            )
        except EdgeVqaError as error:
            rows.append({"name": name, "megabytes": None, "quantisation": None, "description": f"damaged: {error.what}"})
    if json_:
        _print_json(rows)
        return
    for row in rows:
        size = "?" if row["megabytes"] is None else f"{row['megabytes']} MB"
        print(f"{row['name']:<12} {size:>9}  {row['quantisation'] or '?':<12} {row['description']}")


@models_app.command("show", epilog="Example: edge-vqa models show mini")
def models_show(
    name: Annotated[str | None, typer.Argument(help="Bundle (default: the embedded one).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print bundle.json as it is.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show what is in a bundle: source, quantisation, operating points, measured figures."""
    del debug
    from edge_vqa import bundle as bundles

    found = bundles.read(name)
    manifest = found.manifest
    if json_:
        print(bundles.render(manifest), end="")
        return
    q = manifest.quantisation
    print(f"{manifest.name} {manifest.version}: {manifest.description}")
    print(f"architecture   {manifest.architecture}, from {manifest.source.checkpoint} {manifest.source.revision}".rstrip())
    print(f"licence        {manifest.licence}")
    print(f"quantisation   {q.method}:{q.type}, {q.bits_per_weight:.2f} bits a weight; vision tower {q.vision_type}")
    for role, file in manifest.files.items():
        print(f"{role:<14} {file.path}, {file.bytes / 1e6:.2f} MB")
    for point in manifest.operating_points:
        limit = "no threshold keeps it" if point.threshold is None else f"threshold {point.threshold:.3f}"
        print(
            f"risk {point.risk:<9.0%} {limit}, coverage {point.coverage:.0%} of {point.n} questions"
            f" ({point.confidence}, {point.method}, delta {point.delta:g}){' [default]' if point.default else ''}"
        )
    for figure in manifest.measured:
        interval = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
        print(f"measured       {figure.metric} {figure.value:.4f}{interval} on {figure.data}, n = {figure.n}, {figure.date}")


@models_app.command("verify", epilog="Example: edge-vqa models verify mini")
def models_verify(
    name: Annotated[str | None, typer.Argument(help="Bundle (default: the embedded one).")] = None,
    debug: DebugOption = False,
) -> None:
    """Compare every file of a bundle with its checksum."""
    del debug
    from edge_vqa import bundle as bundles

    found = bundles.read(name)
    bundles.verify(found, thorough=True)
    print(f"{found.name}: {len(found.files)} files intact")


@models_app.command(
    "pull",
    epilog="""
[bold]Examples[/bold]\n
  edge-vqa models pull ggml-org/SmolVLM-500M-Instruct-GGUF\n
  edge-vqa models pull ggml-org/Qwen2.5-VL-3B-Instruct-GGUF --file "*q4_k_m*"\n
  edge-vqa models pull OWNER/REPO@REVISION --name mine\n\n
The bundle lands in $EDGE_VQA_HOME (default ~/.cache/edge-vqa); --model takes its name.
""",
)
def models_pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO[@REVISION]", help="Repository on the Hugging Face hub.")],
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="PATTERN", help="Which files, where there are several; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle (default: the repository's).")] = None,
    instruction: Annotated[str, typer.Option(help="Text put behind every question.")] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")] = 32,
    detail: Annotated[str, typer.Option(metavar="low|high", help="Default detail of pictures.")] = "low",
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Jinja chat template to use instead of the model's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    debug: DebugOption = False,
) -> None:
    """Download a gguf pair or a bundle from the Hugging Face hub."""
    del debug
    from edge_vqa import template
    from edge_vqa.pull import pull

    folder, manifest = pull(
        repository,
        file or [],
        as_name=name,
        force=force,
        instruction=instruction,
        max_tokens=max_tokens,
        detail=detail,
        template=template.read(chat_template),
    )
    size = sum(stored.bytes for stored in manifest.files.values()) / 1e6
    print(f"{folder.name}: {manifest.description}, {size:.1f} MB, licence {manifest.licence}")
    print(f'try it: edge-vqa ask photo.jpg "what is this?" --model {folder.name}')


def main() -> None:
    run(app, "edge-vqa")


if __name__ == "__main__":
    main()
