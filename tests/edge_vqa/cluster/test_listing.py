"""What may be asked: files of questions in every form, the parts that they are cut into, and what is said of bad ones."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from edge_vqa.cluster import listing, parts
from edge_vqa.cluster.listing import Listed
from edge_vqa.cluster.places import place
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work import questions
from tests.conftest import EXAMPLES, written
from tests.edge_vqa.cluster.conftest import entries

PICTURE = (EXAMPLES / "price.png").read_bytes()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def asked(found: Listed) -> tuple[Any, ...]:
    return found.question_id, found.image, found.question, found.answers


def test_json_lines_and_parquet_hold_the_same(tmp_path: Path) -> None:
    lines = entries(10)
    as_lines = list(listing.read(str(written(tmp_path / "q.jsonl", lines))))
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "q.parquet")
    assert list(listing.read(str(tmp_path / "q.parquet"))) == as_lines
    assert asked(as_lines[3]) == ("q3", lines[3]["image"], lines[3]["question"], ("a",))
    assert as_lines[0].stamp and as_lines[0].stamp == as_lines[1].stamp


def test_a_folder_and_a_pattern_are_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    lines = entries(9)
    for number in range(3):
        written(tmp_path / f"{number}.jsonl", lines[3 * number : 3 * number + 3])
    for source in (str(tmp_path), f"{tmp_path}/*.jsonl"):
        assert [found.question_id for found in listing.read(source)] == [line["question_id"] for line in lines]


def test_samples_of_a_shard_bring_their_pictures(tmp_path: Path) -> None:
    many = {"questions": [{"question": "one?"}, {"question": "two?", "question_id": "second", "answers": ["b"]}]}
    path = shard(
        tmp_path / "a.tar",
        {
            "x/7.png": PICTURE,
            "x/7.json": json.dumps({"question": "how much?"}).encode(),
            "x/8.seg.json": json.dumps(many).encode(),
            "x/8.jpg": PICTURE[:-1],
        },
    )
    first, *others = listing.read(str(path))
    assert asked(first) == ("x/7", f"{path}/x/7.png", "how much?", ()) and first.at is not None
    assert place(str(path)).read(first.at[0], sum(first.at)) == PICTURE
    assert [asked(found) for found in others] == [
        ("x/8-0", f"{path}/x/8.jpg", "one?", ()),
        ("second", f"{path}/x/8.jpg", "two?", ("b",)),
    ]


def test_a_picture_may_lie_in_an_archive_beside_the_questions_or_elsewhere(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"1.png": PICTURE})
    lines = [
        dict(entries(1)[0], question_id=str(n), image=image) for n, image in enumerate(["a.tar/1.png", "memory://b/1.png"])
    ]
    near, far = listing.read(str(written(tmp_path / "q.jsonl", lines)))
    assert near.image == f"{tmp_path}/a.tar/1.png" and near.at is not None and near.at[1] == len(PICTURE)
    assert (far.image, far.stamp, far.at) == ("memory://b/1.png", "", None)


def test_questions_of_another_place_name_pictures_of_that_place(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/set/q.jsonl", json.dumps({"question_id": "1", "image": "a/1.png", "question": "what?"}).encode())
    (found,) = listing.read("memory://set/q.jsonl")
    assert found.image == "memory:///set/a/1.png"


BAD = {
    "no JSON": ("q.jsonl", b"{\n", "line 1"),
    "no object": ("q.jsonl", b"[1]\n", "line 1: not an object"),
    "no question": ("q.jsonl", b'{"question_id": "1", "image": "a.png"}\n', "line 1: question is missing"),
    "no Parquet": ("q.parquet", b"PAR1, or not", "no Parquet"),
    "no archive": ("q.tar", b"x" * 600, "no tar archive"),
    "nothing there": ("other.jsonl", b"", "cannot be read"),
    "an unknown kind of place": ("nowhere://q.jsonl", b"", "cannot be reached"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    file, content, said = BAD[name]
    source = tmp_path / file
    if content:
        source.write_bytes(content)
    with pytest.raises(EdgeVqaError, match=said) as raised:
        list(listing.read(file if "://" in file else str(source)))
    assert file.rpartition("/")[2] in raised.value.what and "\n" not in str(raised.value)


def test_a_sample_without_a_picture_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"5.json": b'{"question": "what?"}'})
    with pytest.raises(EdgeVqaError, match="sample 5: no picture"):
        list(listing.read(str(path)))


def test_parts_are_cut_where_the_picture_changes() -> None:
    for each, ends in ((10, [120, 240, 300]), (100, [100, 200, 300]), (1000, [128, 256, 300])):
        made = list(questions.parts(range(300), lambda n, each=each: n // each))  # type: ignore[misc]
        assert [part[-1] + 1 for part in made] == ends and [n for part in made for n in part] == list(range(300))


def test_questions_of_one_id_and_missing_pictures_are_said_before_anything_is_written(tmp_path: Path) -> None:
    folder = place(str(tmp_path / "run"))
    twice = [Listed(name, "a.png", "what?", ()) for name in "abcb"]
    with pytest.raises(EdgeVqaError, match="questions 2 and 4 have one question_id"):
        parts.write_plan(twice, folder)
    some = [Listed("a", "a.png", "what?", ()), Listed("b", "b.png", "what?", (), None)]
    with pytest.raises(EdgeVqaError, match=r"1 of 2 pictures are missing \(b.png\)"):
        parts.write_plan(some, folder)
    assert not (tmp_path / "run").exists()
    plan = parts.write_plan(some, folder, skip_missing=True)
    assert (plan.count, plan.missing) == (1, 1)
