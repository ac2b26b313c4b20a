"""Teaches a quantised LM to say what the float LM says: its distributions at the answers' tokens, its states everywhere else.

The loss of a batch is the sum of
- KL(teacher || student) before each token of the teacher's own answers, the mean over an answer, then over answers (Hinton et
  al. 2015, arXiv 1503.02531, at temperature 1);
- `STATES` times the relative squared error of the final states at all tokens, those of the picture among them: answers are
  few, and a picture's tokens are what later questions look at;
- `CALIBRATION` times the squared difference of MaxProb, the product of the probabilities of an answer's tokens: it is what an
  answer is trusted by.

What is kept is the state with the lowest KL on pictures that are held back, rounded as it will be stored.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.decoder import faster
from converters.files.parts import Half
from converters.files.writer import Coder
from converters.options import Progress
from converters.recovery.asked import Shown, batches
from converters.recovery.student import Free, Held, Lm, Student, teacher
from edge_vqa.border.whole import write_whole
from edge_vqa.errors import EdgeVqaError

STATES, CALIBRATION = 0.3, 1.0
TOKENS = 1536  # of a step
HELD_BACK = 15  # one picture in so many
MOST_HELD_BACK = 48  # pictures
RATES = {"weights": 5e-5, "gains": 1e-3, "vectors": 1e-3}  # of weights and vectors: times their root mean square
WARM = 8  # steps
SETTLED = 20  # steps between two roundings
HOLD = 0.8  # of the time weights learn, for the rest gains
LOOKS = 6  # at what is held back
DIVERGED = 2.0  # times the KL before


@dataclass(frozen=True)
class Recovered:
    """KL in nats a token and mean distance of MaxProb on what was held back, before and after; steps taken; whether it
    had to be stopped."""

    before: tuple[float, float]
    after: tuple[float, float]
    steps: int
    diverged: bool

    def __str__(self) -> str:
        (kl, away), (kl_after, away_after) = self.before, self.after
        how = f"{self.steps} steps" if self.steps else "closed form"
        ended = "; training diverged, and the last good state was kept" if self.diverged else ""
        return (
            f"recovered in {how}: on pictures held back KL {kl:.4f} -> {kl_after:.4f}, MaxProb off by"
            f" {away:.3f} -> {away_after:.3f}{ended}"
        )


@dataclass(frozen=True)
class Told:
    """What a batch differs in: KL of each answer [answers], the squared error of states, MaxProb of student and teacher."""

    kl: Tensor
    states: Tensor
    student: Tensor
    teacher: Tensor

    @property
    def loss(self) -> Tensor:
        return self.kl.mean() + STATES * self.states + CALIBRATION * (self.student - self.teacher).square().mean()


class Teacher:
    """The float LM. Its states are worked out once and kept, in half precision."""

    def __init__(self, lm: Half) -> None:
        self.lm = teacher(lm)
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def states(self, numbers: Sequence[int], rows: Sequence[Shown]) -> Tensor:
        new = [n for n in numbers if n not in self._kept]
        if new:
            made = self.lm([rows[n] for n in new]).half()
            self._kept |= dict(zip(new, made.split([len(rows[n]) for n in new]), strict=True))
        return torch.cat([self._kept[n].float() for n in numbers])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def logits(self, states: Tensor) -> Tensor:
        return self.lm.logits(states)


def compared(student: Lm, master: Teacher, numbers: Sequence[int], rows: Sequence[Shown]) -> Told:
    some = [rows[number] for number in numbers]
    ours, theirs = student(some), master.states(numbers, rows)
    places, answers, first, before = [], [], 0, 0
    for row in some:
        places.append(row.places + first)
        answers.append(row.question + before)
        first += len(row)
        before += int(row.question[-1]) + 1
    where, answer, said = torch.cat(places), torch.cat(answers), torch.cat([row.said for row in some])
    own = student.logits(ours[where]).log_softmax(-1)
    known = master.logits(theirs[where]).log_softmax(-1)
    kl = (known.exp() * (known - own)).sum(-1)
    count = torch.zeros(before).index_add(0, answer, torch.ones(len(answer)))

    def summed(values: Tensor) -> Tensor:
        """Of each answer."""
        return torch.zeros(before).index_add(0, answer, values)

    maxprob = [summed(values.gather(1, said[:, None])[:, 0]).exp() for values in (own, known)]
    error = (ours - theirs).square().sum(-1) / theirs.square().sum(-1)
    return Told(summed(kl) / count, error.mean(), *maxprob)


def apart(rows: Sequence[Shown]) -> tuple[list[int], list[int]]:
    """Numbers of the rows that are held back, and of those that are learned from."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    held = max(2, min(MOST_HELD_BACK, len(rows) // HELD_BACK))
    return order[:held], order[held:]


def look(student: Student, master: Teacher, rows: Sequence[Shown], numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """KL and distance of MaxProb of each answer [answers] on some rows, rounded as it would be stored."""
    student.settle()
    kl, away = [], []
    for some in batches(rows, TOKENS, numbers):
        with torch.no_grad(), faster():
            told = compared(student, master, some, rows)
        kl.append(told.kl)
        away.append((told.student - told.teacher).abs())
    return torch.cat(kl), torch.cat(away)


class Training:
    """One recovery. lm: to be quantised to `types` by `coders`; master: who teaches. folder: keeps the state, under `key`, for
    whoever is interrupted."""

    def __init__(
        self, lm: Half, master: Half, types: Mapping[str, str], coders: Mapping[str, Coder], rows: Sequence[Shown], *,
        way: str, minutes: float, folder: Path, key: str,
    ) -> None:  # fmt: skip
        self.rows, self.way, self.whole = rows, way, 60 * minutes
        self.master, self._new = Teacher(master), partial(Student, lm, types, coders, held=way == "gains")
        self.student = self._new()
        self.held_back, self.taught = apart(rows)
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.latest, self.best = folder / f"latest-{name}.pt", folder / f"best-{name}.pt"
        self.step, self.spent = 0, 0.0
        self.looks: list[float] = []
        self.before = self.after = (math.inf, math.inf)
        self.holding = way == "gains"

    # -- one step ---------------------------------------------------------------------------------------------------------

    def optimiser(self) -> torch.optim.Optimizer:
        """For what learns now."""
        matrices = self.student.matrices.values()
        sized = [(matrix.weight, "weights") for matrix in matrices if isinstance(matrix, Free)]
        sized += [(vector, "vectors") for vector in self.student.vectors.values()]
        groups = [([one], RATES[name] * float(one.detach().square().mean().sqrt())) for one, name in sized]
        groups.append(([matrix.gains for matrix in matrices if isinstance(matrix, Held | Free)], RATES["gains"]))
        found = [{"params": own, "lr": rate, "rate": rate} for own, rate in groups]
        return torch.optim.AdamW(found, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def learn(self, numbers: Sequence[int], optimiser: torch.optim.Optimizer, factor: float) -> float:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        with faster():
            told = compared(self.student, self.master, numbers, self.rows)
        optimiser.zero_grad()
        told.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        optimiser.step()
        return float(told.kl.detach().mean())

    def look(self) -> tuple[float, float]:
        """At what is held back: means."""
        kl, away = look(self.student, self.master, self.rows, self.held_back)
        return float(kl.mean()), float(away.mean())

    # -- all of them ------------------------------------------------------------------------------------------------------

    def run(
        self, progress: Progress = lambda step, done, total: None, notice: Callable[[str], None] = lambda line: None
    ) -> tuple[Student, Recovered]:
        """notice: is told how it goes. Raises EdgeVqaError."""
        optimiser = self.go_on()
        if self.step:
            notice(f"going on after {self.spent / 60:.1f} minutes")
        else:
            self.before = self.look()
            self.judge(self.before)
            notice(f"on {len(self.held_back)} pictures held back: KL {self.before[0]:.4f}, MaxProb off by {self.before[1]:.3f}")
        began, diverged, since = time.monotonic() - self.spent, False, 0
        order: Iterator[list[int]] = iter(())
        while not diverged and (spent := time.monotonic() - began) < self.whole:
            progress("recovering", int(spent), int(self.whole))
            if not self.holding and spent > HOLD * self.whole:
                self.student.hold()
                self.holding, optimiser, since = True, self.optimiser(), 0
            numbers = next(order, None)
            if numbers is None:
                mixed = torch.randperm(len(self.taught), generator=torch.Generator().manual_seed(self.step + 1)).tolist()
                order = batches(self.rows, TOKENS, [self.taught[n] for n in mixed])
                continue
            if self.step % SETTLED == 0:
                self.student.settle()
            factor = min(1.0, (since + 1) / WARM) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / self.whole)))
            kl = self.learn(numbers, optimiser, factor)
            self.step, since = self.step + 1, since + 1
            diverged = not math.isfinite(kl)
            if not diverged and spent > len(self.looks) / LOOKS * self.whole:
                seen = self.look()
                self.judge(seen)
                notice(f"{spent / 60:.1f} minutes, {self.step} steps: KL {seen[0]:.4f}, MaxProb off by {seen[1]:.3f}")
                diverged = seen[0] > DIVERGED * self.before[0]
                self.spent = time.monotonic() - began
                self.keep(optimiser)
        if not diverged:
            self.judge(self.look())
        progress("recovering", int(self.whole), int(self.whole))
        student = self.restored()
        for state in (self.latest, self.best):
            state.unlink(missing_ok=True)
        return student, Recovered(self.before, self.after, self.step, diverged)

    def judge(self, seen: tuple[float, float]) -> None:
        """Keep this state if it is the best so far."""
        if seen[0] < min(self.looks, default=math.inf):
            self.after = seen
            save({"holding": self.holding, "student": self.state()}, self.best)
        self.looks.append(seen[0])

    def state(self) -> dict[str, Any]:
        """Of the student: what learns, and codes that are held but were not at first."""
        codes = {
            key: torch.from_numpy(matrix.data)
            for key, matrix in self.student.matrices.items()
            if isinstance(matrix, Held) and self.way == "weights"
        }
        return {"parameters": dict(self.student.state_dict()), "codes": codes}

    def restore(self, state: dict[str, Any], holding: bool) -> None:
        if holding and not self.holding:
            self.student.hold()
        self.holding = holding
        for key, codes in state["codes"].items():
            matrix = self.student.matrices[key]
            assert isinstance(matrix, Held)
            self.student.matrices[key] = Held(codes.numpy(), matrix.type)
        self.student.load_state_dict(state["parameters"])
        self.student.settle()

    def keep(self, optimiser: torch.optim.Optimizer) -> None:
        about = {name: getattr(self, name) for name in ("step", "spent", "looks", "before", "after", "holding")}
        save(about | {"student": self.state(), "optimiser": optimiser.state_dict()}, self.latest)

    def go_on(self) -> torch.optim.Optimizer:
        """From the latest state, if one was left."""
        if not (self.latest.is_file() and self.best.is_file()):
            return self.optimiser()
        stored = load(self.latest)
        self.restore(stored["student"], stored["holding"])
        for name in ("step", "spent", "looks", "before", "after"):
            setattr(self, name, stored[name])
        optimiser = self.optimiser()
        optimiser.load_state_dict(stored["optimiser"])
        return optimiser

    def restored(self) -> Student:
        """The student in its best state."""
        best = load(self.best)
        if self.holding and not best["holding"]:  # it was better while weights learned
            self.student, self.holding = self._new(), False
        self.restore(best["student"], best["holding"])
        return self.student


def save(state: Any, path: Path) -> None:
    """Tensors, numbers and strings, whole or not at all."""
    write_whole(path, lambda stream: torch.save(state, stream))


def load(path: Path) -> Any:
    """What `save` wrote; nothing in it is executed."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # whatever damaged bytes do to a reader of zip files
        raise EdgeVqaError(f"{path} is damaged", "remove it, and recover again") from None
