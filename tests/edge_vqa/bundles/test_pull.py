"""`edge-vqa models pull` against a hub on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_vqa.bundles import store
from edge_vqa.bundles.pull import Remote, Repository, choose
from edge_vqa.bundles.store import Bundle
from tests.conftest import EXAMPLES, Run, one_line
from tests.hub import Hub, serve

Pull = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(mini: Bundle) -> Iterator[Hub]:
    with serve() as made:
        made.files["someone/Mini-GGUF"] = {
            "README.md": EXAMPLES / "demo.sh",
            "Mini-Q4_K_M.gguf": mini.files["lm"],
            "Mini-f16.gguf": mini.files["lm"],
            "mmproj-Mini-Q8_0.gguf": mini.files["vision"],
            "mmproj-Mini-BF16.gguf": mini.files["vision"],
        }
        yield made


@pytest.fixture
def pull(hub: Hub, run: Run, tmp_path: Path) -> Pull:
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "EDGE_VQA_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run("edge-vqa", "models", "pull", *arguments, env=environment)

    return call


def test_a_gguf_pair_becomes_a_bundle_that_answers(pull: Pull, run: Run, tmp_path: Path, mini: Bundle) -> None:
    result = pull("someone/Mini-GGUF")
    assert result.returncode == 0, result.stderr
    assert "Mini: Mini-GGUF, Mini-Q4_K_M, 7.5 MB, licence apache-2.0" in result.stdout
    home = tmp_path / "home"
    manifest = store.read(home / "Mini").manifest
    assert manifest.files["lm"].sha256 == mini.manifest.files["lm"].sha256
    assert manifest.architecture == "idefics3" and manifest.source.checkpoint == "someone/Mini-GGUF"
    assert manifest.runtime.preprocessing == mini.manifest.runtime.preprocessing
    ours, theirs = manifest.prompt, mini.manifest.prompt
    assert (ours.before, ours.question, ours.after, ours.stop) == (theirs.before, theirs.question, theirs.after, theirs.stop)
    assert not (home / ".pulling").exists() or not any((home / ".pulling").iterdir())
    environment = os.environ | {"EDGE_VQA_HOME": str(home)}
    asked = run("edge-vqa", "ask", EXAMPLES / "price.png", "how much is it?", "-m", "Mini", "--no-gate", env=environment)
    assert asked.stdout == "$4.50\n", asked.stderr
    assert "Mini" in run("edge-vqa", "models", "list", env=environment).stdout
    assert "intact" in run("edge-vqa", "models", "verify", "Mini", env=environment).stdout
    assert "exists already" in one_line(pull("someone/Mini-GGUF"))
    assert pull("someone/Mini-GGUF", "--force", "--file", "*f16*").returncode == 0


def test_a_bundle_arrives_with_its_selector(pull: Pull, hub: Hub, tmp_path: Path, mini: Bundle) -> None:
    hub.files["someone/bundle"] = {path.name: path for path in (mini.folder / "bundle.json", *mini.files.values())}
    assert pull("someone/bundle@main").returncode == 0
    got = store.read(tmp_path / "home" / "bundle")
    assert got.manifest == mini.manifest
    store.verify(got, thorough=True)


def test_a_download_that_breaks_off_goes_on_where_it_ended(pull: Pull, hub: Hub, tmp_path: Path, f32_bundle: Bundle) -> None:
    hub.files["someone/Mini-GGUF"]["Mini-Q4_K_M.gguf"] = f32_bundle.files["lm"]
    hub.cut = 11 * 2**20  # the client writes 10 MB at a time
    result = pull("someone/Mini-GGUF")
    assert result.returncode == 0, result.stderr
    assert hub.ranges == [f"bytes={10 * 2**20}-"], f"nothing was resumed: {hub.ranges}"
    store.verify(store.read(tmp_path / "home" / "Mini"), thorough=True)


def test_a_killed_download_goes_on_where_it_ended(hub: Hub, tmp_path: Path, f32_bundle: Bundle, run: Run) -> None:
    hub.files["someone/Mini-GGUF"]["Mini-Q4_K_M.gguf"] = f32_bundle.files["lm"]
    hub.stall = 11 * 2**20
    environment = os.environ | {"HF_ENDPOINT": hub.address, "EDGE_VQA_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command = [str(Path(sys.executable).with_name("edge-vqa")), "models", "pull", "someone/Mini-GGUF"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(f.stat().st_size >= 10 * 2**20 for f in (tmp_path / ".pulling").rglob("*.part")):
            assert time.monotonic() < deadline and process.poll() is None, "the download never got that far"
            time.sleep(0.05)
        process.kill()
    hub.stall = None
    assert not (tmp_path / "Mini").exists()
    assert run("edge-vqa", "models", "pull", "someone/Mini-GGUF", env=environment).returncode == 0
    assert f"bytes={10 * 2**20}-" in hub.ranges, f"nothing was resumed: {hub.ranges}"
    store.verify(store.read(tmp_path / "Mini"), thorough=True)


def test_a_wrong_checksum_is_refused_and_leaves_no_bundle(pull: Pull, hub: Hub, tmp_path: Path) -> None:
    hub.lie = True
    assert "arrived damaged" in one_line(pull("someone/Mini-GGUF"))
    assert not (tmp_path / "home" / "Mini").exists()
    hub.lie = False
    assert pull("someone/Mini-GGUF").returncode == 0


def test_a_full_disk_is_told_before_the_download(pull: Pull, hub: Hub, tmp_path: Path) -> None:
    hub.inflate = shutil.disk_usage(tmp_path).total
    message = one_line(pull("someone/Mini-GGUF"))
    assert "GB are needed" in message and "GB are free" in message
    assert not hub.ranges


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("someone/else",), "was not found on the hub"),
        (("someone/Mini-GGUF@nowhere",), "was not found on the hub"),
        (("Mini",), "is no repository"),
        (("a/b/c",), "is no repository"),
        (("someone/Mini-GGUF", "--file", "*q2*"), "choose among Mini-Q4_K_M.gguf"),
        (("someone/Mini-GGUF", "--name", "../up"), "cannot be the name"),
    ],
)
def test_wrong_names_are_told_in_one_line(arguments: tuple[str, ...], words: str, pull: Pull) -> None:
    assert words in one_line(pull(*arguments))


def test_an_unreachable_hub_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "EDGE_VQA_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    assert "could not be downloaded" in one_line(run("edge-vqa", "models", "pull", "a/b", env=environment))


def _offer(*names: str) -> Repository:
    return Repository("a/b", "0", "mit", tuple(Remote(name, 1, None) for name in names))


def test_the_smallest_sound_pair_is_chosen() -> None:
    offered = _offer("x-f16.gguf", "x-Q8_0.gguf", "x-Q4_K_M.gguf", "mmproj-x-bf16.gguf", "mmproj-x-f16.gguf")
    assert [file.path for file in choose(offered, [])] == ["x-Q4_K_M.gguf", "mmproj-x-f16.gguf"]
    assert [file.path for file in choose(offered, ["*q8_0*"])] == ["x-Q8_0.gguf", "mmproj-x-f16.gguf"]
    assert [file.path for file in choose(offered, ["*q8_0*", "mmproj*bf16*"])] == ["x-Q8_0.gguf", "mmproj-x-bf16.gguf"]
    for unfit in (_offer("x.gguf"), _offer("mmproj-x.gguf"), _offer("model.safetensors")):
        with pytest.raises(Exception, match="offers no pair"):
            choose(unfit, [])
    with pytest.raises(Exception, match="several parts"):
        choose(_offer("x-q4_k_m-00001-of-00003.gguf", "mmproj-x-f16.gguf"), [])
