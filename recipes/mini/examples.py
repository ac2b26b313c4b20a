"""The eight pictures in `examples/` that the project made, and the README's contact sheet of them.

python -m recipes.mini.examples draw     needs the art (art.sh)
python -m recipes.mini.examples sheet    asks the embedded model, writes docs/examples.png; `make sheet`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from recipes.mini import nouns, scenes

EXAMPLES = Path("examples")
SHEET = Path("docs/examples.png")
SIZE = 256
# picture -> questions that show answering and abstaining
ASKED = {
    "fruit": ("how many things are there?", "what is left of the banana?", "what color is the dog?"),
    "street": ("what is on the right?", "is there a vehicle?", "which thing is biggest?"),
    "face": ("how does the face feel?", "who is she?"),
    "open": ("what does the sign say?",),
    "price": ("how much is it?", "what does it say?"),
    "clock": ("what time is it?",),
    "shapes": ("what color is the star?", "which shape is left of the star?", "how many shapes are there?"),
    "dark": ("what is it?", "is it an animal?"),
}


def gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    share = np.linspace(0, 1, SIZE)[:, None, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (SIZE, SIZE, 3)).astype(np.uint8))


def paste(image: Image.Image, short: str, x: int, y: int, side: int) -> None:
    art = scenes.emoji(short, "google")
    assert art is not None
    art = art.resize([round(v * side / max(art.size)) for v in art.size], Image.Resampling.LANCZOS)
    image.paste(art, (x - art.width // 2, y - art.height // 2), art)


def sign(text: str, font: str, ink: str, board: str, back: Image.Image, angle: float) -> Image.Image:
    face = scenes.font_of(font, 68)
    left, top, right, bottom = face.getbbox(text)
    layer = Image.new("RGBA", (SIZE, SIZE))
    brush = ImageDraw.Draw(layer)
    x, y = (SIZE - right + left) / 2, (SIZE - bottom + top) / 2
    brush.rounded_rectangle((x - 16, y - 20, SIZE - x + 16, SIZE - y + 20), 14, fill=board)
    brush.text((x - left, y - top), text, font=face, fill=ink)
    layer = layer.rotate(angle, Image.Resampling.BICUBIC)
    back.paste(layer, (0, 0), layer)
    return back


def draw() -> None:
    made = {name: gradient((200, 222, 244), (244, 240, 226)) for name in ASKED}
    for noun, x, y, side in (("apple", 60, 96, 84), ("banana", 186, 84, 96), ("strawberry", 130, 196, 76)):
        paste(made["fruit"], nouns.EMOJI[noun], x, y, side)
    for noun, x, y, side in (("house", 64, 110, 108), ("tractor", 140, 208, 72), ("fir", 210, 96, 84)):
        paste(made["street"], nouns.EMOJI[noun], x, y, side)
    paste(made["face"], "sob", 128, 128, 170)
    made["open"] = sign("OPEN", "lato/Lato-Bold.ttf", "#ffffff", "#1f6f43", gradient((150, 120, 96), (112, 88, 70)), 4)
    made["price"] = sign("$4.50", "dejavu/DejaVuSans-Bold.ttf", "#202020", "#ffd94a", made["price"], -5)
    made["clock"] = sign("9:45", "play/Play-Bold.ttf", "#ff7a45", "#16181c", gradient((70, 76, 90), (44, 48, 58)), 0)
    brush = ImageDraw.Draw(made["shapes"])
    brush.ellipse((22, 40, 102, 120), fill=scenes.RGB["red"])
    brush.polygon(scenes.polygon("star", 190, 90, 96, 96), fill=scenes.RGB["blue"])
    brush.rectangle((60, 168, 190, 228), fill=scenes.RGB["orange"])
    paste(made["dark"], nouns.EMOJI["elephant"], 140, 130, 150)
    pixels = np.asarray(made["dark"]) * 0.12 + np.random.default_rng(0).normal(0, 9, (SIZE, SIZE, 3))
    made["dark"] = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for name, image in made.items():
        image.save(EXAMPLES / f"{name}.png", optimize=True)
    lines = [json.dumps({"image": f"{name}.png", "question": text}) for name, asked in ASKED.items() for text in asked]
    (EXAMPLES / "questions.jsonl").write_text("\n".join(lines) + "\n")


def sheet(bundle: str = "mini", asked: dict[str, tuple[str, ...]] = ASKED, target: Path = SHEET) -> None:
    """A page of eight pictures of `examples/` with what a bundle says. asked: questions by file, or its name without .png."""
    from matplotlib import pyplot

    from edge_vqa import load

    figure, axes = pyplot.subplots(2, 4, figsize=(11, 6.8), dpi=110)
    with load(bundle) as model:
        for axis, (name, texts) in zip(axes.flat, asked.items(), strict=True):
            path = EXAMPLES / (name if "." in name else f"{name}.png")
            with Image.open(path) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                axis.imshow(image.crop((left, top, left + side, top + side)))
            axis.axis("off")
            for row, question in enumerate(texts):
                answer = model.ask(path, question)
                said = (
                    f"not answered ({min(answer.confidence, 0.99):.2f})"
                    if answer.abstained
                    else f"{answer.text} ({min(answer.confidence, 0.99):.2f})"
                )
                axis.text(0, -0.075 - row * 0.21, question, transform=axis.transAxes, fontsize=9)
                colour = "#8a5a00" if answer.abstained else "#0b6b3a"
                axis.text(0, -0.165 - row * 0.21, said, transform=axis.transAxes, fontsize=9, color=colour, weight="bold")
    figure.subplots_adjust(left=0.02, right=0.98, top=0.98, bottom=0.22, hspace=0.75, wspace=0.12)
    figure.savefig(target, metadata={"Software": None})


if __name__ == "__main__":
    {"draw": draw, "sheet": sheet}[sys.argv[1]]()
