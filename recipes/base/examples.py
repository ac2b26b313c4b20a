"""The README's contact sheet of photographs; credits: THIRD_PARTY.md.

python -m recipes.base.examples    # asks the base model, writes docs/photos.png; `make sheet`
"""

from __future__ import annotations

from pathlib import Path

from recipes.mini.examples import sheet

ASKED = {
    "lemon.jpg": ("what is this?", "what color is it?", "can you eat it?"),
    "apples.jpg": ("what is this?", "which kind of apple is it?", "how many are there?"),
    "cat.jpg": ("what is this?", "which kind of cat is it?", "is it a dog?"),
    "coffee.jpg": ("what do you see?", "how old is the cup?", "which room would it be in?"),
    "skirt.jpg": ("what am I looking at?", "can I wear it?", "what is it made of?"),
    "jacket.jpg": ("what is it?", "what color is it?", "is it a shoe?"),
    "carton.jpg": ("what is this?", "can you drink it?", "what does it cost?"),
    "fruit.png": ("what is left of the banana?", "is there an animal?", "what color is the dog?"),
}

if __name__ == "__main__":
    sheet("base", ASKED, Path("docs/photos.png"))
