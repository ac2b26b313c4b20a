"""How an answer looks in a notebook: the picture, what was said of it, and how sure that is."""

from __future__ import annotations

import base64
import html
import io
import sys

from PIL import Image

from edge_vqa.pictures.open import Picture
from edge_vqa.visible import visible

SIDE = 240  # pixels, of the longer side
ANSWERED, ABSTAINED = "#2e8b57", "#8a8a8a"


def thumbnail(picture: Picture) -> bytes | None:
    """A small JPEG of the picture; nothing outside of a notebook, which alone shows it."""
    ipython = sys.modules.get("IPython")
    if ipython is None or getattr(ipython.get_ipython(), "kernel", None) is None:
        return None
    small = Image.fromarray(picture.rgb)
    small.thumbnail((SIDE, SIDE))
    made = io.BytesIO()
    small.save(made, "JPEG", quality=80)
    return made.getvalue()


def card(image: bytes | None, text: str | None, words: str, confidence: float, threshold: float | None) -> str:
    """HTML. image: JPEG; text: None where it is withheld; words: on how it was judged; threshold: a mark on the bar."""
    shown = ""
    if image is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        shown = f'<img src="{source}" alt="" style="display:block;max-width:{SIDE}px;border-radius:4px">'
    said = "<i>not answered</i>" if text is None else html.escape(visible(text, lines=True))
    words = html.escape(visible(words.removeprefix("not answered: ")))
    percent = 100 * confidence
    mark = ""
    if threshold is not None:
        at = f"left:calc({100 * threshold:.1f}% - 1px);top:-3px;width:2px;height:14px;background:currentColor"
        mark = f'<div title="threshold {threshold:.2f}" style="position:absolute;{at}"></div>'
    bar = (
        f'<div role="meter" aria-label="confidence" aria-valuemin="0" aria-valuemax="1" aria-valuenow="{confidence:.3f}"'
        f' style="position:relative;height:8px;max-width:20em;margin:.7em 0 .5em;background:rgba(128,128,128,.25)">'
        f'<div style="width:{percent:.1f}%;height:8px;background:{ABSTAINED if text is None else ANSWERED}"></div>{mark}</div>'
    )
    return (
        f'<div style="display:flex;gap:1em;align-items:center">{shown}<div style="min-width:14em">'
        f'<div style="font-size:1.4em;white-space:pre-wrap">{said}</div>{bar}'
        f"<div>{words}</div></div></div>"
    )
