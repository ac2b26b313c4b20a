"""`--ray`: the same questions, answered by the workers of a Ray cluster."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.cli.options import Loading
    from edge_vqa.cluster.connect import Cluster
    from edge_vqa.cluster.drive import Result
    from edge_vqa.work.batch import Settings

RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="local|auto|ADDRESS", help="Answer on a Ray cluster: this machine's, or HOST:PORT."),
]
HERE = ("then", "cache_dir", "memory_limit", "watch")  # options that mean one machine


def cluster(address: str) -> Cluster:
    """For a `with` block. Raises EdgeVqaError where the extra is not installed."""
    try:
        import fsspec  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        raise EdgeVqaError(f"--ray needs {error.name}, which is not installed", 'pip install "edge-vqa[ray]"') from None
    from edge_vqa.cluster.connect import Cluster

    return Cluster(address)


def ask(
    questions: str,
    output: str,
    settings: Settings,
    loading: Loading,
    *,
    cluster: Cluster,
    together: int | None,
    skip_missing: bool,
) -> Result:
    """Answer a file of questions into `output`: a file of JSON lines, a folder of such parts, or of Parquet parts."""
    from edge_vqa.cluster import drive, listing
    from edge_vqa.cluster.answers import Answers
    from edge_vqa.cluster.places import place

    given = {f.name: getattr(loading, f.name) for f in dataclasses.fields(loading)}
    for name in HERE:
        if given.pop(name):
            raise typer.BadParameter("is of one machine only", param_hint=f"--{name.replace('_', '-')}")
    model, threads = given.pop("model"), given.pop("threads")
    if given.pop("no_think"):
        given["think"] = 0
    to, one = place(output), output.endswith((".jsonl", ".json"))
    folder = to.sibling(f".{output.rpartition('/')[2]}.parts") if one else to
    work = Answers(
        model, drive.options_for(model, given, together), settings, ".parquet" if output.endswith(".parquet") else ".jsonl"
    )
    with terminal.progress() as bars:
        return drive.run(
            work,
            listing.read(questions),
            folder,
            joined=to if one else None,
            cluster=cluster,
            asked=vars(settings),
            threads=threads,
            skip_missing=skip_missing,
            progress=terminal.steps(bars),
        )
