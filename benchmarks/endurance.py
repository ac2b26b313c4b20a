"""Ten thousand questions in one process on the embedded model: resident memory, and what the gate costs.

    python -m benchmarks.endurance [--questions 10000]

Every way to ask takes its turn: `ask`, an open picture, `stream` left unfinished, `ask_many`, pictures of every size, questions
that are refused. The median of each tenth of the questions is told; growth is from the second tenth to the last: every buffer
has been used once by then.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Generator
from pathlib import Path

import numpy as np

from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import load

QUESTIONS = ("what is this?", "is it an animal?", "how many things are there?", "what colour is it?")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    wanted = parser.parse_args().questions
    rng = np.random.default_rng(0)
    examples = sorted(Path("examples").glob("*.[jp][pn]g"))
    asked, gates = 0, []
    sizes: list[list[int]] = [[] for _ in range(10)]  # of each tenth of the questions
    with load(sequences=4) as model:
        while asked < wanted:
            height, width = rng.integers(20, 400, 2)
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
            for question in QUESTIONS:
                answer = model.ask(picture, question)
                gates.append(answer.timings.gate_s / answer.timings.total_s)
            unfinished = model.stream(picture, QUESTIONS[0])
            assert isinstance(unfinished, Generator)
            next(unfinished)
            unfinished.close()
            answers = list(model.ask_many((path, question) for path in examples for question in QUESTIONS[:2]))
            assert not any(isinstance(answer, EdgeVqaError) for answer in answers)
            try:
                model.ask(picture, "why? " * 5000)
            except EdgeVqaError:
                pass
            else:
                raise AssertionError("too long a question was answered")
            asked += len(QUESTIONS) + len(answers) + 2
            sizes[min(9, 10 * asked // wanted)].append(resident())
    medians = [statistics.median(values) for values in sizes]
    for number, size in enumerate(medians):
        print(f"tenth {number + 1:2}: {size / 1e6:.1f} MB, {size / medians[1] - 1:+.2%}")
    print(f"growth {medians[-1] / medians[1] - 1:+.2%} over {asked} questions;", end=" ")
    print(f"the gate takes {statistics.median(gates):.2%} of an answer, in the median")


if __name__ == "__main__":
    main()
