"""Options that several commands share, and what holds of them together."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from edge_vqa.cli import terminal

if TYPE_CHECKING:
    from edge_vqa.model import Model
    from edge_vqa.session import plan as session

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME|FOLDER", help="Bundle to ask (default: base where it is installed, else mini)."
    ),
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
ThinkOption = Annotated[
    int | None,
    typer.Option(
        "--think", metavar="N", min=0, max=16384, help="Tokens of thought before an answer, of models that think; 0: none."
    ),
]
NoThinkOption = Annotated[bool, typer.Option("--no-think", help="As --think 0, where the model's template has a way.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Count confidences, nothing else, for edge-vqa doctor.")]
TogetherOption = Annotated[
    int | None,
    typer.Option(
        "--together", metavar="N", min=1, max=64, help="Questions that are decoded together (default: as tuned, else 8)."
    ),
]
SkipOption = Annotated[bool, typer.Option("--skip-missing", help="Leave out questions whose picture is missing.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]


@dataclass(frozen=True)
class Asking:
    """How to ask: options of ask, chat and batch."""

    risk: RiskOption = None
    threshold: ThresholdOption = None
    no_gate: NoGateOption = False
    show_candidate: CandidateOption = False
    detail: DetailOption = None
    max_tokens: TokensOption = None

    def __post_init__(self) -> None:
        if (self.risk is not None) + (self.threshold is not None) + self.no_gate > 1:
            raise typer.BadParameter("--risk, --threshold and --no-gate exclude each other")
        check_detail(self.detail)

    def how(self) -> session.Asking:
        """As `Model.ask` takes it."""
        return {
            "risk": self.risk,
            "threshold": self.threshold,
            "gate": not self.no_gate,
            "detail": self.detail,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class Loading:
    """What to load, and how it runs: options of ask, chat and batch."""

    model: ModelOption = None
    confidence: ConfidenceOption = None
    then: ThenOption = None
    vision: VisionOption = None
    device: DeviceOption = None
    threads: ThreadsOption = None
    context: ContextOption = None
    kv_type: KvOption = None
    memory_limit: MemoryOption = None
    cache_dir: CacheOption = None
    think: ThinkOption = None
    no_think: NoThinkOption = False
    watch: WatchOption = False

    def model_for(self, *, sequences: int | None = 1, **more: Any) -> Model:
        """The model, loaded. more: options of `load` that no command has."""
        from edge_vqa.model import load

        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "no_think")}
        if self.no_think:
            given["think"] = 0
        given |= {"memory_limit": self.memory_limit and self.memory_limit * 10**6, "watch": self.watch or None}
        return load(self.model, sequences=sequences, **given, **more)

    @contextmanager
    def loaded(self, *, sequences: int | None = 1) -> Iterator[Model]:
        """The model, with what the user should know of it on stderr."""
        terminal.busy(f"loading {self.model or 'the default model'} ...")
        with self.model_for(sequences=sequences) as model:
            terminal.busy("")
            told = _warn(model.warnings)
            yield model
            _warn(model.warnings[told:])  # of a second model that was needed


def _warn(warnings: Sequence[str]) -> int:
    for warning in warnings:
        terminal.tell(f"edge-vqa: {warning}")
    return len(warnings)


def check_detail(detail: str | None) -> None:
    if detail not in (None, "low", "high", "auto"):
        raise typer.BadParameter("use low, high or auto", param_hint="--detail")


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of the types above are options of their own, one for each field, as typer wants them."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        kind = parameter.annotation
        if kind not in (Asking, Loading):
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = kind
        hints = get_type_hints(kind, include_extras=True)
        for f in dataclasses.fields(kind):
            option = inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            shown.append(option)

    def run(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return run
