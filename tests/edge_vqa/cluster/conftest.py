"""A cluster of two nodes on this machine, and what is asked of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**NODE)
    yield made
    made.shutdown()
