"""Options that several commands share, and what holds of them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


def check(risk: float | None, threshold: float | None, no_gate: bool, detail: str | None) -> None:
    if (risk is not None) + (threshold is not None) + no_gate > 1:
        raise typer.BadParameter("--risk, --threshold and --no-gate exclude each other")
    check_detail(detail)


def check_detail(detail: str | None) -> None:
    if detail not in (None, "low", "high", "auto"):
        raise typer.BadParameter("use low, high or auto", param_hint="--detail")
