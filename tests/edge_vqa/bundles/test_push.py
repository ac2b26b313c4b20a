"""`edge-vqa models push` to a hub on this machine, and back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from edge_vqa.bundles import card, store
from edge_vqa.bundles.manifest import Source, render
from edge_vqa.bundles.store import Bundle
from tests.conftest import EXAMPLES, Run, one_line
from tests.hub import TOKEN, Hub, serve


class Program(Protocol):
    def __call__(self, *arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture
def edge_vqa(hub: Hub, run: Run, tmp_path: Path) -> Program:
    def call(*arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        own = {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf")}
        return run("edge-vqa", *arguments, env=os.environ | own | {"EDGE_VQA_HOME": str(tmp_path / "home")})

    return call


def test_a_bundle_goes_there_and_comes_back_the_same(edge_vqa: Program, hub: Hub, mini: Bundle, tmp_path: Path) -> None:
    done = edge_vqa("models", "push", "mini", "me/tiny", "--private")
    assert done.returncode == 0 and done.stdout.startswith(f"{hub.address}/me/tiny/commit/"), done.stderr
    assert "edge-vqa models pull me/tiny" in done.stderr
    assert hub.private == {"me/tiny": True} and hub.commits == [f"mini {mini.manifest.version}"], "all in one commit"
    assert set(hub.files["me/tiny"]) == {"README.md", "bundle.json", *(path.name for path in mini.files.values())}
    assert edge_vqa("models", "pull", "me/tiny").returncode == 0
    for path in (mini.folder / "bundle.json", *mini.files.values()):
        assert (tmp_path / "home" / "tiny" / path.name).read_bytes() == path.read_bytes()
    asked = ("ask", EXAMPLES / "price.png", "how much is it?")
    assert edge_vqa(*asked, "--model", "tiny").stdout == edge_vqa(*asked, "--model", "mini").stdout != ""


def test_what_is_there_is_not_sent_again_and_a_card_may_stay(edge_vqa: Program, hub: Hub, mini: Bundle) -> None:
    hub.refuse = 1
    broken = edge_vqa("models", "push", "mini", "me/tiny")
    assert broken.returncode == 1 and "try again" in one_line(broken) and not hub.commits, "nothing is there by halves"
    assert edge_vqa("models", "push", "mini", "me/tiny").returncode == 0
    assert sorted(hub.sent) == sorted(set(hub.sent)) and len(hub.sent) == len(mini.files)
    mine = hub.stored / "mine"
    mine.write_text("my own words")
    hub.files["me/tiny"]["README.md"] = mine
    assert edge_vqa("models", "push", "mini", "me/tiny", "--keep-card", "-m", "again").returncode == 0
    assert hub.files["me/tiny"]["README.md"].read_text() == "my own words"
    assert hub.commits[-1] == "again" and len(hub.sent) == len(mini.files)


def test_the_card_says_what_the_manifest_says(edge_vqa: Program, hub: Hub, mini: Bundle) -> None:
    printed = edge_vqa("models", "push", "mini", "me/tiny", "--dry-run")
    assert printed.returncode == 0 and not hub.private and not hub.commits
    _, head, text = printed.stdout.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "apache-2.0" and told["pipeline_tag"] == "visual-question-answering" and "base_model" not in told
    assert "edge-vqa models pull me/tiny" in text and "--model tiny" in text
    for point in mini.manifest.operating_points:
        assert point.threshold is None or f"{point.threshold:.3f}" in text
    for figure in mini.manifest.measured:
        assert f"{figure.value:.4g}" in text and figure.date in text
    quantisation = mini.manifest.quantisation
    assert f"{quantisation.method}:{quantisation.type}" in text.replace("\\", "")


def test_what_a_manifest_says_is_text_and_its_licence_may_be_any(mini: Bundle) -> None:
    hostile = "<script>alert(1)</script> | [click](http://x) `x` \n# heading"
    own = replace(
        mini.manifest,
        description=hostile,
        licence="My Own 1.0: yes",
        source=Source("HuggingFaceTB/SmolVLM", "abc"),
        measured=(),
    )
    made = card.body(own, "me/tiny", 1)
    assert "<script" not in made and "\n# heading" not in made and "[click]" not in made
    told = card.data(own)
    assert told["license"] == "other" and re.fullmatch(r"[a-z0-9.-]+", told["license_name"])
    assert told["base_model"] == "HuggingFaceTB/SmolVLM" and told["base_model_relation"] == "quantized"
    assert "No threshold" in card.body(replace(own, operating_points=()), "me/tiny", 1)


@pytest.mark.parametrize(
    ("arguments", "token", "said"),
    [
        (("mini", "me/tiny"), "hf_other", "you may not write me/tiny: log in"),
        (("mini", "tiny"), TOKEN, "give OWNER/REPO"),
        (("mini", "me/ti ny"), TOKEN, "give OWNER/REPO"),
        (("mini", "me/tiny@main"), TOKEN, "give OWNER/REPO"),
        (("nothing", "me/tiny"), TOKEN, "no bundle"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    edge_vqa: Program, hub: Hub, arguments: tuple[str, str], token: str, said: str
) -> None:
    done = edge_vqa("models", "push", *arguments, token=token)
    assert done.returncode == 1 and said in one_line(done) and not hub.commits


def test_a_damaged_bundle_stays_here(edge_vqa: Program, hub: Hub, mini: Bundle, tmp_path: Path) -> None:
    shutil.copytree(mini.folder, tmp_path / "home" / "torn")
    torn = store.read(tmp_path / "home" / "torn")
    (torn.folder / "bundle.json").write_text(render(replace(torn.manifest, name="torn")))
    with torn.files["lm"].open("r+b") as stream:
        stream.seek(2_000_000)
        stream.write(b"torn")
    done = edge_vqa("models", "push", "torn", "me/torn")
    assert done.returncode == 1 and "checksum" in one_line(done) and not hub.private


def test_a_hub_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    own = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    done = run("edge-vqa", "models", "push", "mini", "me/tiny", env=os.environ | own)
    assert "could not be uploaded" in one_line(done)
