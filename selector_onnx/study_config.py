"""What a study is about: its config, and the mixes that it measures on."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from edge_vqa.border import untrusted
from edge_vqa.border.typed import typed
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class Data:
    """Questions files, beside the config. train, exposure: train the Selectors, without and with; calibration: chooses the
    main bundle's thresholds; id, ood: measured on."""

    train: str
    id: str
    ood: str | None = None
    exposure: str | None = None
    calibration: str | None = None


@dataclass(frozen=True)
class Entry:
    """A bundle of the study, as figures and tables call it. selector: whether one is trained on its own answers too."""

    folder: str
    precision: str
    quantiser: str
    selector: bool = True

    @property
    def label(self) -> str:
        return f"{self.precision} {self.quantiser}".strip()


@dataclass(frozen=True, order=True)
class Mix:
    """`percent` of the questions are of the OOD set `ood`, the rest ID. Without OOD questions the set is nameless."""

    ood: str
    percent: int

    def __str__(self) -> str:
        """As the paper writes it: share of ID; share of OOD."""
        return f"{self.ood} {100 - self.percent};{self.percent}".strip()


@dataclass(frozen=True)
class Config:
    """CONFIG.toml. mixes: per cent of OOD questions. main: folder of the bundle that the smaller tables are about. ood: further
    OOD questions files, by name. foreign: by name, questions files about pictures that the bundles were not made for."""

    name: str
    data: Data
    bundle: tuple[Entry, ...]
    baseline: str
    main: str
    mixes: tuple[int, ...] = (0, 25, 50, 75, 100)
    delta: float = 0.05
    ood: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)

    @property
    def sets(self) -> dict[str, str]:
        """The OOD files by name; that of [data] has none."""
        return ({"": self.data.ood} if self.data.ood else {}) | self.ood

    @property
    def measured(self) -> tuple[Mix, ...]:
        """Every mix, ID first."""
        alone = (Mix("", 0),) if 0 in self.mixes else ()
        return alone + tuple(Mix(name, percent) for name in self.sets for percent in sorted(self.mixes) if percent)

    @property
    def ends(self) -> tuple[Mix, ...]:
        """Of the mixes the first, and of each OOD set the last."""
        last = max(self.mixes)
        return tuple(dict.fromkeys((self.measured[0], *(Mix(name, last) for name in self.sets if last))))


def read_config(path: Path) -> Config:
    """Raises EdgeVqaError naming the key at fault."""
    try:
        decoded = tomllib.loads(untrusted.read_text(path))
        config: Config = typed(decoded, Config, "")
    except (OSError, ValueError) as error:
        raise EdgeVqaError(f"{path} is not a study ({error})", "see docs/study.md for an example") from None
    folders = [entry.folder for entry in config.bundle]
    for key, value in (("baseline", config.baseline), ("main", config.main)):
        if value not in folders:
            raise EdgeVqaError(f"{path}: {key} {value!r} is the folder of no bundle", f"use one of {', '.join(folders)}")
    for entry in config.bundle:
        if entry.folder in (config.baseline, config.main) and not entry.selector:
            raise EdgeVqaError(f"{path}: {entry.folder} needs a Selector of its own", "leave selector = false out there")
    if not config.mixes or not all(0 <= mix <= 100 for mix in config.mixes):
        raise EdgeVqaError(f"{path}: mixes are per cent of OOD questions", "as in mixes = [0, 25, 50, 75, 100]")
    if not config.sets:
        raise EdgeVqaError(f"{path}: no OOD questions are given", "give ood in [data], or a table [ood] of files by name")
    return config
