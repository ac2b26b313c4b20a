"""Bundles that come as Python packages: `pip install NAME`, and `--model` knows it.

Such a package says so in the entry point group `edge_vqa.bundles`: the bundle's name = the package whose folder holds
bundle.json. Nothing of it is imported, and what it holds is believed no more than a download is.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_vqa.bundles.manifest import MANIFEST, is_name
from edge_vqa.errors import EdgeVqaError

GROUP = "edge_vqa.bundles"
BASE, BASE_PACKAGE = "base", "edge_vqa_base"  # taken without --model, where it is installed


@dataclass(frozen=True)
class Offer:
    """What an installed distribution says. fault: why it cannot be used, empty where it can."""

    name: str
    distribution: str  # name and version
    folder: Path = Path()
    fault: str = ""


@cache
def offers() -> tuple[Offer, ...]:
    """All that is installed, in the order of their names. Takes some milliseconds, once, where a name needs it."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    made = []
    for point in found:
        told = f"{point.dist.name} {point.dist.version}" if point.dist else "a package without metadata"
        folder, fault = _folder(point.value)
        if not is_name(point.name):
            fault = f"{point.name[:60]!r} cannot be a name"
        elif sum(other.name == point.name for other in found) > 1:
            fault = f"several packages hold a bundle {point.name!r}"
        made.append(Offer(point.name, told, folder, fault))
    return tuple(made)


def folder_of(name: str) -> Path | None:
    """The folder of a bundle of this name, if a package offers it. Raises EdgeVqaError where it cannot be used."""
    named = [offer for offer in offers() if offer.name == name]
    for offer in named:
        if offer.fault:
            who = " and ".join(other.distribution for other in named)
            raise EdgeVqaError(f"{offer.fault} ({who})", "uninstall or update it, or give the folder of a bundle")
    return named[0].folder if named else None


def has_base() -> bool:
    """Whether the package of the base model is installed; quick."""
    return importlib.util.find_spec(BASE_PACKAGE) is not None


def _folder(package: str) -> tuple[Path, str]:
    """Where a package lies, and what is wrong with it as a bundle."""
    if not package.isidentifier():  # of a package in a package, the outer one would be imported
        return Path(), f"{package[:60]!r} is not a package"
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    if not places:
        return Path(), f"there is no package {package!r}"
    folder = Path(next(iter(places)))
    return folder, "" if (folder / MANIFEST).is_file() else f"the package {package!r} holds no {MANIFEST}"
