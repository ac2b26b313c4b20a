"""Questions about pictures that a bundle was not made for.

    python -m recipes.trust.questions [--each 100]    # after recipes.mini.reliability, recipes.base.questions

writes `build/trust/questions/`: `fitting.jsonl` and `judging.jsonl`, every world of `foreign.py` with questions of every skill,
also about what is not there; right is only to abstain: a picture that shows nothing does not prove that there is no banana.
`mini_copies_fitting.jsonl` and so on: spoiled copies of pictures that a bundle knows, with their own questions. Those that fit
are of its calibration pictures, those that judge of its tests. Of what a copy cannot show any more (`LOST`), right is only to
abstain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from PIL import Image

from recipes.base.questions import OUT as BASE
from recipes.base.questions import Builder
from recipes.mini import nouns
from recipes.mini.questions import SIDES, Asker, a, plural
from recipes.mini.reliability import OUT as MINI
from recipes.mini.reliability import UNANSWERABLE
from recipes.trust import foreign

OUT = Path("build/trust/questions")
WORDINGS = {"fitting": "train", "judging": "test"}
FAMILIAR = {
    "mini": {"fitting": (MINI / "calibration.jsonl",), "judging": (MINI / "mix_test.jsonl",)},
    "base": {
        "fitting": (BASE / "calibration.jsonl",),
        "judging": (BASE / "grocery_test.jsonl", BASE / "clothing_test.jsonl", BASE / "others_test.jsonl"),
    },
}
LOST = {"transparent": "", "tiny": "", "grey": "colour"}  # copy -> kinds of question that it cannot answer, by a word of theirs


def skills(asker: Asker) -> tuple[str, str]:
    """(kind, question) of any skill, about things that there may be or not."""
    rng = asker.rng
    noun = rng.choice(nouns.NOUNS)
    draws: dict[str, Callable[[], str]] = {
        "what": lambda: asker.word("what"),
        "kind": lambda: asker.word("kind"),
        "colour": lambda: asker.word("colour"),
        "colour of": lambda: asker.word("colour of", the=f"the {noun}"),
        "how many": lambda: asker.word("count", things=rng.choice(("things", "objects", plural(noun)))),
        "where": lambda: asker.word("where", the=f"the {noun}"),
        "beside": lambda: asker.word(rng.choice(SIDES), the=f"the {noun}"),
        "read": lambda: asker.word("read"),
        "is there": lambda: asker.word("is there", a=a(noun)),
        "is it": lambda: asker.word("is it", a=a(noun)),
    }
    kind = rng.choice(list(draws))
    return kind, draws[kind]()


def worlds(part: str, each: int) -> None:
    made = Builder(part, OUT)
    asker = Asker(Random(f"foreign {part}"), WORDINGS[part])
    for name, draw in foreign.WORLDS[part].items():
        for number in range(each):
            kind, question = skills(asker)
            made.add(draw(Random(f"{name} {number} {part}")), [(f"{name}, {kind}", question, [UNANSWERABLE])])
    made.close()


def familiar(bundle: str, part: str, rng: Random) -> Iterator[tuple[Path, dict]]:
    """Questions about pictures that the bundle knows, in any order, one a picture; no picture comes twice."""
    lines = [(path, json.loads(line)) for path in FAMILIAR[bundle][part] for line in path.read_text().splitlines()]
    rng.shuffle(lines)
    seen = set()
    for path, line in lines:
        if line["image"] not in seen and line["answers"] != [UNANSWERABLE]:
            seen.add(line["image"])
            yield path.parent / line["image"], line


def copies(bundle: str, part: str, each: int) -> None:
    made = Builder(f"{bundle}_copies_{part}", OUT)
    known = familiar(bundle, part, Random(f"copies {bundle} {part}"))
    for name, spoil in foreign.COPIES[part].items():
        for _ in range(each):
            path, line = next(known)
            lost = name in LOST and LOST[name] in line["kind"]
            with Image.open(path) as image:
                answers = [UNANSWERABLE] if lost else line["answers"]
                made.add(spoil(image), [(f"{name}, {line['kind']}", line["question"], answers)])
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100, help="pictures of each world, of each copy")
    each = parser.parse_args().each
    for part in WORDINGS:
        worlds(part, each)
        for bundle in FAMILIAR:
            copies(bundle, part, each)


if __name__ == "__main__":
    main()
