"""The driver: lists what is asked, has Ray's workers answer what is not answered yet, and says how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_vqa.bundles import store
from edge_vqa.cluster import parts
from edge_vqa.cluster.connect import Cluster, gave_up
from edge_vqa.cluster.listing import Listed
from edge_vqa.cluster.parts import Plan
from edge_vqa.cluster.places import Place
from edge_vqa.cluster.worker import Versions, Work, Worker, whole
from edge_vqa.device import memory, tuning
from edge_vqa.device.profile import default_threads, profile_of
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import room_for
from edge_vqa.work.batch import Outcome

PROCESS = 120 * 10**6  # bytes of Ray and pyarrow in a worker
MANY = 16  # parts a worker
LOST = 20  # workers in a row that may die, with their nodes, before they have a model
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Result:
    """tally: of all questions; plan: how they were cut."""

    tally: Outcome
    plan: Plan


def options_for(bundle: str | None, given: Mapping[str, Any], together: int | None) -> dict[str, Any]:
    """What the workers load with: what is otherwise chosen on each machine is chosen here, once for all."""
    choice = tuning.choose(store.read(bundle), given.get("vision"))
    chosen = {name: value for name, value in given.items() if value is not None}
    return chosen | {"vision": choice.vision, "sequences": together or choice.together}


def run(
    work: Work,
    listed: Iterable[Listed],
    folder: Place,
    *,
    joined: Place | None = None,
    cluster: Cluster,
    asked: Mapping[str, Any],
    threads: int | None = None,
    skip_missing: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Result:
    """Have every question answered in `folder`, see `parts`; what is there is not asked again.

    joined: a file that gets all parts, one behind the other, when all are there. asked: the settings, in words that JSON
    knows. threads: of a worker (default: by the size of the model). Raises EdgeVqaError for the first thing that goes wrong on
    any node; what was answered stays, and the same call goes on.
    """
    versions = Versions.here(work.bundle)
    settled = {**asdict(versions), "options": {name: str(value) for name, value in work.options.items()}, "asked": dict(asked)}
    settled["suffix"] = work.suffix
    with parts.locked(folder):
        held = parts.settle(folder, settled, joined)
        plan = parts.write_plan(listed, folder, lambda done: progress("listing", done, None), skip_missing=skip_missing)
        progress("listing", plan.count + plan.missing, plan.count + plan.missing)
        if joined is not None and held:
            same = _unchanged(work, plan, joined, held)
            if same is not None:
                parts.tidy(folder, {parts.MANIFEST})
                return Result(same, plan)
            parts.take_apart(joined, held, folder)
        names = folder.names()
        for name in names:
            if name.startswith(parts.ATTEMPT):
                folder.child(name).remove()
        there = found(work, plan, folder, set(names))
        rows = [
            {"number": part.number, "start": part.start, "end": part.end, "count": part.count}
            | {"name": part.name(work.suffix), "old": parts.older(names, part, work.suffix) or ""}
            for part in plan.parts
            if part.number not in there
        ]
        tally = Outcome()
        for one in there.values():
            tally = tally.plus(one)
        progress("asking", len(tally), plan.count)
        if rows:
            for made in _ask(work, rows, folder, versions, cluster, threads):
                tally = tally.plus(made)
                progress("asking", len(tally), plan.count)
        parts.finish(folder, settled, plan, work.suffix, joined)
    return Result(tally, plan)


def _unchanged(work: Work, plan: Plan, joined: Place, held: parts.Held) -> Outcome | None:
    """What the file of all parts holds, if that is what is asked now."""
    if [name for name, _ in held] != [part.name(work.suffix) for part in plan.parts]:
        return None
    every = Outcome()
    for part, (_, raw) in zip(plan.parts, parts.read_joined(joined, held), strict=True):
        tally = whole(work, raw, part.count)
        if tally is None:
            return None
        every = every.plus(tally)
    return every


def found(work: Work, plan: Plan, folder: Place, names: set[str]) -> dict[int, Outcome]:
    """Parts that are answered, by number."""
    present = [part for part in plan.parts if part.name(work.suffix) in names]

    def tally(part: parts.Part) -> Outcome | None:
        return whole(work, folder.child(part.name(work.suffix)).read(), part.count)

    with ThreadPoolExecutor(8) as pool:
        tallies = zip(present, pool.map(tally, present), strict=True)
        return {part.number: one for part, one in tallies if one is not None}


def _ask(
    work: Work, rows: list[dict[str, Any]], folder: Place, versions: Versions, cluster: Cluster, threads: int | None
) -> Iterator[Outcome]:
    """Tallies of parts, as they are answered."""
    cluster.connect()
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    each = threads or default_threads(store.read(work.bundle).manifest.files["lm"].bytes).decode
    count = min(cluster.look_over(versions, work.bundle, each), len(rows))
    ahead = 2 if len(rows) >= MANY * count else 1  # the next part at hand; where there are few, rather with who is idle
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    context.max_consecutive_actor_init_deaths = LOST
    made = from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        batch_size=1,
        fn_constructor_args=(work, str(folder), versions, each, str(Path.cwd())),
        compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=ahead),
        num_cpus=each,
        memory=_bytes(work),
    )
    try:
        for told in made.iter_batches(batch_size=None, prefetch_batches=0):  # else the last part answered waits for the next
            for tally, fault, todo in zip(told["tally"], told["fault"], told["todo"], strict=True):
                if fault:
                    raise EdgeVqaError(str(fault), str(todo))
                yield Outcome(**json.loads(tally))
    except ray.exceptions.RayError as error:
        raise gave_up(error) from None


def _bytes(work: Work) -> int:
    """Of memory that a worker takes, Ray's own share of its process with it."""
    bundle, options = store.read(work.bundle), work.options
    usual = profile_of(options.get("device")).run
    context = options.get("context") or usual.context_in(room_for(bundle.manifest.runtime.preprocessing))
    need = memory.Need(options["vision"], context, options.get("kv_type") or usual.kv_type, options["sequences"])
    return memory.plan(bundle, need).total + PROCESS
