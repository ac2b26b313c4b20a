"""A cluster of two nodes on this machine, and what is asked of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

from tests.conftest import EXAMPLES

PICTURES = sorted(EXAMPLES.glob("*.png"))
ASKED = ("what is this?", "how many things are there?", "is there a dog?", "what does the sign say?")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def entries(n: int) -> list[dict[str, Any]]:
    """Lines of a questions file."""
    pictures = [str(PICTURES[i // len(ASKED) % len(PICTURES)]) for i in range(n)]
    return [
        {"question_id": f"q{i}", "image": image, "question": ASKED[i % len(ASKED)], "answers": ["a"]}
        for i, image in enumerate(pictures)
    ]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def without_time(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in json.loads(line).items() if key != "total_s"} for line in path.read_text().splitlines()
    ]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**NODE)
    yield made
    made.shutdown()
