"""An answer shows itself in a real Jupyter kernel; outside of one it carries no picture."""

from __future__ import annotations

import base64
import io
import json
import re

import nbclient
import nbformat
import pytest
from PIL import Image

from edge_vqa.model import load
from edge_vqa.notebook import card
from tests.conftest import EXAMPLES

ASK = "model.ask('{}', 'how much is it?', {})"


def shown(*cells: str) -> list[str]:
    """HTML that each cell shows."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return ["".join(output.get("data", {}).get("text/html", "") for output in cell.outputs) for cell in notebook.cells]


def test_a_kernel_shows_the_picture_the_answer_and_a_bar() -> None:
    price = EXAMPLES / "price.png"
    _, answered, abstained, awaited, many = shown(
        "import edge_vqa; model = edge_vqa.load('mini')",
        ASK.format(price, "threshold=0.01"),
        ASK.format(price, "threshold=1.0"),
        f"await model.aask({str(price)!r}, 'how much is it?', threshold=0.01)",
        f"list(model.ask_many([({str(price)!r}, 'how much is it?')]))[0]",
    )
    with load("mini") as model:
        answer = model.ask(price, "how much is it?", threshold=0.01)
    assert answer.thumbnail is None, "no notebook"
    assert answer.text is not None and answer.text in answered and answer.in_words() in answered
    assert f'aria-valuenow="{answer.confidence:.3f}"' in answered and 'title="threshold 0.01"' in answered
    assert answer.text not in abstained and "not answered" in abstained
    for one in (answered, abstained, awaited):
        picture = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)', one)[1])))  # type: ignore[index]
        assert picture.format == "JPEG" and max(picture.size) <= 240
    assert awaited == answered
    assert "<img" not in many and "confidence" in many, "of many questions no pictures are kept"


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", 'a" onmouseover="alert(1)', "\x1b[31m<b>"])
def test_what_a_model_says_is_text(text: str) -> None:
    made = card(None, text, f"words {text}", 0.5, None)
    assert "<script" not in made and "<b>" not in made and "\x1b" not in made
    assert json.dumps(made).count("onmouseover=&quot;") == json.dumps(made).count("onmouseover")
