"""The README's contact sheet of photographs; credits: THIRD_PARTY.md.

python -m recipes.base.examples    # asks the base model, writes docs/photos.png; `make sheet`
"""

from __future__ import annotations

from pathlib import Path

from recipes.mini.examples import sheet

ASKED = {
    "apples.jpg": ("what is this?", "which kind of apple is it?", "how many are there?"),
    "lemon.jpg": ("is this a lemon?", "can you eat it?", "what color is it?"),
    "coffee.jpg": ("what do you see?", "how old is the cup?", "can you drink it?"),
    "cat.jpg": ("is it an animal?", "what is this?", "which kind of cat is it?"),
    "skirt.jpg": ("can I wear it?", "what am I looking at?", "can you eat it?"),
    "jacket.jpg": ("is it a shoe?", "what is it?", "what color is it?"),
    "carton.jpg": ("is it an animal?", "can you drink it?", "what does it cost?"),
    "fruit.png": ("is it something to wear?", "is there an animal?", "what color is the dog?"),
}

if __name__ == "__main__":
    sheet("base", ASKED, Path("docs/photos.png"))
