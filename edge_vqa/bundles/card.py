"""A model card for a bundle, in Markdown, from what its `bundle.json` says."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from edge_vqa.bundles import hub
from edge_vqa.bundles.manifest import Manifest, OperatingPoint
from edge_vqa.visible import visible

# what the hub knows by these names; others are `other`, with a name of their own
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "bsd-3-clause", "gemma", "unknown")
ROLES = {
    "lm": "language model, llama.cpp",
    "vision": "vision tower, llama.cpp (mmproj)",
    "vision_onnx": "vision tower, ONNX",
    "selector": "Selector: the confidence of a whole answer",
    "selector_early": "Selector: the confidence from the first token",
    "familiarity": "familiarity of the picture",
}


def data(manifest: Manifest) -> dict[str, Any]:
    """What the hub reads of a card, see huggingface.co/docs/hub/model-cards."""
    licence, source = manifest.licence.lower(), manifest.source
    known = licence in LICENCES
    made: dict[str, Any] = {"license": licence if known else "other", "library_name": "edge-vqa"}
    if not known:
        made["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or "other"
    if source.revision and re.fullmatch(r"[\w.-]+/[\w.-]+", source.checkpoint):
        made |= {"base_model": source.checkpoint, "base_model_relation": "quantized"}
    tags = ["gguf", "llama.cpp", "onnx", "edge-vqa", "selective-prediction", manifest.architecture]
    return made | {"pipeline_tag": "visual-question-answering", "tags": tags}


def body(manifest: Manifest, repository: str, size: int) -> str:
    """The card below its data. size: bytes of all files."""
    q, source = manifest.quantisation, manifest.source
    short, of = hub.short(repository), f"{source.checkpoint} {source.revision}".strip()
    method = ", ".join(filter(None, (f"{q.method}:{q.type}", f"{q.bits_per_weight:.2f} bits a weight", q.calibration)))
    parts = [
        f"# {_text(manifest.name)}",
        f"{_text(manifest.description)}." if manifest.description else "",
        "A bundle of edge-vqa: visual question answering on a Raspberry Pi, a Jetson or a"
        f" laptop, with an answer to rely on or an honest abstention. {size / 1e6:.0f} MB.",
        "## Use",
        "```sh\n"
        'pip install "edge-vqa[pull]"\n'
        f"edge-vqa models pull {repository}\n"
        f'edge-vqa ask photo.jpg "what is this?" --model {short}\n'
        "```",
        "```python\n"
        "import edge_vqa\n"
        f'with edge_vqa.load("{short}") as model:\n'
        '    answer = model.ask("photo.jpg", "what is this?")\n'
        "    print(answer.text, answer.confidence)    # text is None where it abstains\n"
        "```",
        "## What it is",
        _table(
            ("", ""),
            (
                ("made from", of),
                ("architecture", manifest.architecture),
                ("quantisation", method),
                ("vision tower", q.vision_type),
                ("licence", manifest.licence),
                ("version", manifest.version),
            ),
        ),
        _table(
            ("file", "what", "MB"),
            ((file.path, ROLES[role], f"{file.bytes / 1e6:.2f}") for role, file in manifest.files.items()),
        ),
        "## When it answers",
        *_points(manifest.operating_points),
    ]
    if manifest.measured:
        figures = (
            (
                one.metric,
                f"{one.value:.4g}" + ("" if one.low is None else f" [{one.low:.3g}, {one.high:.3g}]"),
                one.data,
                f"{one.n:,}",
                one.date,
            )
            for one in manifest.measured
        )
        parts += ["## Measured", _table(("figure", "value, 95 % interval", "data", "n", "date"), figures)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _points(points: Sequence[OperatingPoint]) -> list[str]:
    if not points:
        return ["No threshold was chosen: every verdict says `uncalibrated`, and its confidence is the model's own."]
    rows = []
    for point in points:
        held = point.foreign
        rows.append(
            (
                f"{point.risk:.0%}{' (default)' if point.default else ''}",
                point.confidence,
                "always abstains" if point.threshold is None else f"{point.threshold:.3f}",
                f"{point.coverage:.0%}",
                f"{point.n:,} of {point.data}",
                "" if held is None else f"{held.risk:.1%} with {held.share:.0%} of {held.data}",
            )
        )
    delta = max(point.delta for point in points)
    return [
        "It answers where the confidence reaches the threshold. On questions drawn like those of calibration at most the risk's"
        f" share of its answers is wrong, but for a chance of {delta:.0%} that the draw of these questions misleads. On"
        " pictures unlike them nothing is promised, but for what the last column says: the most that may be wrong with so many"
        " pictures of the worst foreign set that was tried.",
        _table(("risk", "confidence", "threshold", "answered", "calibration questions", "with foreign pictures"), rows),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    """Plain text in Markdown: nothing in it is a link, markup or HTML."""
    plain = html.escape(" ".join(visible(value).split()), quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", plain)
