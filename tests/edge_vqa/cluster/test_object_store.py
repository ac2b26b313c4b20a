"""Questions, pictures and answers in an object store: S3's real client, and a server of its protocol on this machine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from tests.conftest import Run, one_line, without_time, written
from tests.edge_vqa.cluster.conftest import entries


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "ours",
        "AWS_SECRET_ACCESS_KEY": "ours",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    made.makedirs("bucket", exist_ok=True)
    yield made
    server.stop()


def shards(lines: list[dict[str, Any]], pictures: int) -> Iterator[tuple[str, bytes]]:
    """WebDataset's archives, of so many pictures each with its questions."""
    by_picture: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_picture.setdefault(line["image"], []).append(line)
    images = list(by_picture)
    for start in range(0, len(images), pictures):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for image in images[start : start + pictures]:
                asked = [{key: one[key] for key in ("question_id", "question")} for one in by_picture[image]]
                for name, raw in (
                    (f"{Path(image).stem}.png", Path(image).read_bytes()),
                    (f"{Path(image).stem}.json", json.dumps({"questions": asked}).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(raw)
                    archive.addfile(member, io.BytesIO(raw))
        yield f"{start:03}.tar", made.getvalue()


def test_shards_in_a_bucket_are_answered_as_files_are_and_a_torn_part_again(
    store: s3fs.S3FileSystem, tmp_path: Path, run: Run
) -> None:
    lines = sorted(entries(300), key=lambda line: str(line["image"]))
    for name, raw in shards(lines, 3):
        store.pipe_file(f"bucket/shards/{name}", raw)
    here = run("edge-vqa", "batch", written(tmp_path / "q.jsonl", lines), "-o", tmp_path / "a.jsonl", "--model", "mini")
    assert here.returncode == 0, here.stderr
    expected = without_time(tmp_path / "a.jsonl")

    command = ("edge-vqa", "batch", "s3://bucket/shards/*.tar", "-o", "s3://bucket/answers", "--model", "mini", "--ray")
    done = run(*command, "local")
    assert done.returncode == 0, done.stderr

    def answers() -> list[dict[str, Any]]:
        parts = sorted(name for name in store.ls("bucket/answers", detail=False) if "/part-" in name)
        (tmp_path / "there.jsonl").write_bytes(b"".join(store.cat_file(name) for name in parts))
        return without_time(tmp_path / "there.jsonl")

    assert answers() == expected
    first = next(name for name in store.ls("bucket/answers", detail=False) if "/part-" in name)
    store.pipe_file(first, store.cat_file(first)[:-20])
    assert run(*command, "local").returncode == 0 and answers() == expected
    assert run(*command, "127.0.0.1:9").returncode == 0, "nobody needs to answer where all is there"


def test_questions_that_are_not_there_are_one_line(store: s3fs.S3FileSystem, tmp_path: Path, run: Run) -> None:
    for questions in ("s3://bucket/none.jsonl", "s3://bucket/none/*.tar", "s3://nowhere/q.jsonl"):
        command = ("edge-vqa", "batch", questions, "-o", tmp_path / "a.jsonl", "--model", "mini", "--ray", "local")
        assert questions in one_line(run(*command)) and not (tmp_path / "a.jsonl").exists()
