"""Traces, Selectors and cells from the workers of a Ray cluster: what one machine computes, on many."""

from __future__ import annotations

import io
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.cluster import drive, listing
from edge_vqa.cluster.connect import Cluster, gave_up
from edge_vqa.cluster.drive import Result
from edge_vqa.cluster.listing import Listed
from edge_vqa.cluster.places import place
from edge_vqa.cluster.worker import Versions
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from edge_vqa.work.batch import Outcome
from edge_vqa.work.questions import Question
from selector_onnx import collect as collecting
from selector_onnx import several
from selector_onnx.collect import Traces
from selector_onnx.study import SELECTOR, Progress, Study, Workshop


@dataclass(frozen=True)
class Traced:
    """See `edge_vqa.cluster.worker.Work`. data, detail: see `collect.collect`."""

    bundle: str | None
    options: Mapping[str, Any]
    data: str
    detail: str | None = None
    suffix: str = ".npz"

    def answer(self, model: Model, asked: Sequence[Question], images: Mapping[str, str], old: Path | None, to: Path) -> None:
        traces = collecting.ask(model, asked, collecting.origin_of(model, self.data, self.detail))
        pictures = np.array([images.get(picture, picture) for picture in traces.picture.tolist()])
        collecting.save(replace(traces, picture=pictures), to)

    def tally(self, raw: bytes) -> Outcome | None:
        try:
            return Outcome(answered=len(collecting.load(io.BytesIO(raw))))
        except EdgeVqaError:
            return None


def collect(
    work: Traced,
    listed: Iterable[Listed],
    keep: Path,
    cluster: Cluster,
    *,
    threads: int | None = None,
    skip_missing: bool = False,
    progress: drive.Progress,
) -> tuple[Traces, Result]:
    """`collect.collect`, on a cluster. keep: a folder that gets what is done, part by part; after an interruption the same call
    goes on."""
    folder, asked = place(str(keep)), {"data": work.data, "detail": work.detail}
    made = drive.run(
        work, listed, folder, cluster=cluster, asked=asked, threads=threads, skip_missing=skip_missing, progress=progress
    )
    parts = (folder.child(part.name(work.suffix)).read() for part in made.plan.parts)
    return collecting.join([collecting.load(io.BytesIO(raw)) for raw in parts]), made


def study(shop: Workshop, cluster: Cluster, *, threads: int | None = None, progress: Progress) -> Study:
    """`study.run`, on a cluster whose nodes see the study's folders under the same paths.

    Its tasks are a graph: the traces of a bundle; a Selector, which waits for the traces that it learns from; a cell, which
    waits for its Selector. What was computed is in the study's folder, as on one machine, and is never computed again.
    """
    for folder, paths in shop.uncollected().items():
        bundle = shop.bundles[folder]
        asked = several.together({name: shop.files[name] for name in paths})
        work = Traced(str(bundle.folder), {"vision": bundle.backend, **several.LOADED}, "")
        keep = next(iter(paths.values())).with_name(f".{bundle.folder.name}.ray")
        traces, _ = collect(
            work,
            (listing.of(question) for _, question in asked),
            keep,
            cluster,
            threads=threads or 1,
            progress=lambda step, done, total, of=bundle.name: progress(f"{step} {of}", done, total),  # type: ignore[misc]
        )
        several.apart(traces, asked, paths)
        shutil.rmtree(keep, ignore_errors=True)
    _compute(shop, cluster, progress)
    return shop.measure(progress)


def _compute(shop: Workshop, cluster: Cluster, progress: Progress) -> None:
    """Selectors and cells that are not there."""
    missing = [one for one in shop.cells() if not shop.cell_path(*one).is_file()]
    if not missing:
        return
    cluster.connect()
    import ray

    main = str(shop.bundles[shop.config.main].folder)
    cluster.look_over(Versions.here(main), main, 1)
    task = ray.remote(_on_a_node).options(num_cpus=1)
    trained: dict[tuple[Any, ...], Any] = {}
    waiting = []
    for folder, scorer, mix in missing:
        before = []
        if scorer.method == SELECTOR:
            learned = (scorer.of, scorer.inputs, scorer.exposure)
            if learned not in trained and not shop.selector_path(*learned).is_file():
                trained[learned] = task.remote(shop, "selector", learned)
            before = [trained[learned]] if learned in trained else []
        waiting.append(task.remote(shop, "cell", (folder, scorer, mix), *before))
    total = len(waiting)
    progress("computing", 0, total)
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            if fault := next(filter(None, ray.get(done)), None):
                raise EdgeVqaError(*fault)
            progress("computing", total - len(waiting), total)
    except ray.exceptions.RayError as error:
        raise gave_up(error) from None


def _on_a_node(shop: Workshop, make: str, what: tuple[Any, ...], *before: tuple[str, str] | None) -> tuple[str, str] | None:
    """Returns what went wrong, and what to do about it; before: the same of what this waited for."""
    for fault in filter(None, before):
        return fault
    try:
        getattr(shop, make)(*what)
    except EdgeVqaError as error:
        return f"node {socket.gethostname()}: {error.what}", error.todo
    except OSError as error:
        said = f"node {socket.gethostname()}: {shop.output} cannot be written ({error.strerror})"
        return said, "mount the same folder on every node, and start again: it goes on"
    return None
