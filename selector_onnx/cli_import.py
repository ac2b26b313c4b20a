"""`edge-vqa-selector import`: official annotation files become questions files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_vqa.cli import terminal
from edge_vqa.cli.options import DebugOption
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.work.questions import Question

app = typer.Typer(help="Turn official annotation files into questions files.", no_args_is_help=True)
SeedOption = Annotated[int, typer.Option(help="Seed of the splits.")]
OfficialOption = Annotated[Path, typer.Option("--questions", metavar="FILE", help="The official questions, JSON.")]
AnnotationsOption = Annotated[Path, typer.Option(metavar="FILE", help="The official annotations, JSON.")]
ImagesOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures are.")]
FolderOption = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where dev.jsonl, ... go.")]
SplitOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FILE", help="Question ids of a split, as in dev=imdb_val2014-dev.npy.")
]


@app.command(
    "advqa",
    help="AdVQA, whose files have the form of VQAv2's.",
    epilog="Example: edge-vqa-selector import advqa --questions v1_OpenEnded_mscoco_val2017_advqa_questions.json"
    " --annotations v1_mscoco_val2017_advqa_annotations.json --images val2017 -o advqa",
)
@app.command(
    "vqav2",
    epilog="Example: edge-vqa-selector import vqav2 --questions v2_OpenEnded_mscoco_val2014_questions.json"
    " --annotations v2_mscoco_val2014_annotations.json --images val2014 -o vqav2 --split dev=imdb_val2014-dev.npy",
)
def import_vqav2(
    questions: OfficialOption,
    annotations: AnnotationsOption,
    images: ImagesOption,
    output: FolderOption,
    split: SplitOption = None,
    seed: SeedOption = 0,
    debug: DebugOption = False,
) -> None:
    """VQAv2: with the splits of Whitehead et al. where given, else 40 % dev, 10 % val, 50 % test, by picture."""
    del debug
    from selector_onnx import datasets

    _write_splits(datasets.vqav2(questions, annotations, images), output, split, seed)


@app.command("vizwiz", epilog="Example: edge-vqa-selector import vizwiz --annotations val.json --images val -o vizwiz")
def import_vizwiz(
    annotations: AnnotationsOption,
    images: ImagesOption,
    output: FolderOption,
    split: SplitOption = None,
    seed: SeedOption = 0,
    debug: DebugOption = False,
) -> None:
    """VizWiz: train.json or val.json."""
    del debug
    from selector_onnx import datasets

    _write_splits(datasets.vizwiz(annotations, images), output, split, seed)


def _write_splits(questions: list[Question], output: Path, split: list[str] | None, seed: int) -> None:
    from edge_vqa.work.questions import split_missing
    from selector_onnx import datasets

    chosen = [entry.partition("=") for entry in split or []]
    if not all(name.isidentifier() and path for name, _, path in chosen):
        raise typer.BadParameter("give NAME=FILE, as in dev=imdb_val2014-dev.npy", param_hint="--split")
    if chosen:
        made = datasets.split_by_files(questions, {name: Path(path) for name, _, path in chosen})
    else:
        made = datasets.split_by_picture(questions, datasets.SHARES, seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeVqaError(f"{output} cannot be made ({error.strerror})", "choose another place") from None
    for name, own in made.items():
        datasets.write(own, output / f"{name}.jsonl")
        pictures = len({question.image for question in own})
        terminal.say(f"{output / name}.jsonl: {len(own):,} questions on {pictures:,} pictures")
    _, missing = split_missing(questions)
    if missing:
        some = ", ".join(dict.fromkeys(str(question.image) for question in missing[:3]))
        terminal.tell(f"{len(missing):,} questions have no picture yet ({some}, ...): --skip-missing leaves them out")
