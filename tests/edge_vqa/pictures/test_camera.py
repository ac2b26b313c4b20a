"""Pictures from a camera and from standard input. There is no camera here: small programs stand in for the tools."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.pictures import camera
from tests.conftest import EXAMPLES, ROOT, Run, one_line

PRICE = EXAMPLES / "price.png"


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs: the only one besides the shell's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool(folder, "cat", f"exec /bin/cat {PRICE}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_frame_is_asked_about(tools: Path, run: Run) -> None:
    tool(tools, "rpicam-still", "cat")
    done = run("edge-vqa", "ask", "--camera", "how much is it?", env=os.environ | {"PATH": str(tools)})
    assert (done.returncode, done.stdout) == (0, "$4.50\n"), done.stderr


def test_v4l2_through_an_installed_tool(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video0").touch()
    tool(tools, "ffmpeg", f'echo "$@" > {tmp_path}/said; cat')
    assert camera.take(root=tmp_path) == PRICE.read_bytes()
    assert f"-f v4l2 -i {tmp_path}/dev/video0" in (tmp_path / "said").read_text()
    camera.take("/dev/video7", root=tmp_path)
    assert "-i /dev/video7" in (tmp_path / "said").read_text()


def test_the_next_tool_is_tried(tools: Path, tmp_path: Path) -> None:
    tool(tools, "rpicam-still", "echo no cameras available >&2; exit 255")
    tool(tools, "libcamera-still", "cat")
    assert camera.take(root=tmp_path) == PRICE.read_bytes()


def test_without_a_camera_there_is_one_clear_line(tools: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeVqaError, match="there is no camera"):
        camera.take(root=tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video0").touch()
    with pytest.raises(EdgeVqaError, match=r"nothing is installed that reads .*video0: apt install ffmpeg"):
        camera.take(root=tmp_path)
    tool(tools, "rpicam-still", "echo no cameras available >&2; exit 255")
    with pytest.raises(EdgeVqaError, match=r"gives no picture .rpicam-still: no cameras available"):
        camera.take(root=tmp_path)


def test_a_camera_that_hangs_is_given_up(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tools, "rpicam-still", "exec /bin/sleep 60")
    monkeypatch.setattr(camera, "WAIT_S", 0.2)
    with pytest.raises(EdgeVqaError, match="did not answer"):
        camera.take(root=tmp_path)


def test_a_picture_from_standard_input(tmp_path: Path) -> None:
    def ask(data: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "edge_vqa", "ask", "-", "how much is it?"]
        return subprocess.run(command, input=data, capture_output=True)

    assert ask(PRICE.read_bytes()).stdout == b"$4.50\n"
    assert b"the picture is empty" in ask(b"").stderr
    assert b"not a picture that can be read" in ask(b"GIF89a" + b"?" * 100).stderr


def test_wrong_usage_is_told(run: Run) -> None:
    assert run("edge-vqa", "ask", PRICE).returncode == 2
    assert run("edge-vqa", "ask", "--camera", PRICE, "what is this?").returncode == 2
    assert "does not exist" in one_line(run("edge-vqa", "ask", "nothing.png", "what is this?"))


def test_the_cron_line_and_the_service_of_the_docs(tools: Path, tmp_path: Path) -> None:
    tool(tools, "rpicam-still", "cat")
    docs = (ROOT / "docs/headless.md").read_text()
    (cron,) = re.findall(r"^\*/5 \* \* \* \* (.*)$", docs, re.MULTILINE)
    programs = Path(sys.executable).parent
    activate = tmp_path / "edge-vqa-env/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={programs}:$PATH\n")
    environment = {"PATH": str(tools), "HOME": str(tmp_path), "EDGE_VQA_HOME": str(tmp_path / "home")}
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", cron], env=environment, check=False)
    lines = [json.loads(line) for line in (tmp_path / "door.jsonl").read_text().splitlines()]
    assert [line["abstained"] for line in lines] == [True, True], (tmp_path / "door.log").read_text()
    (service,) = re.findall(r"^ExecStart=/opt/edge-vqa/bin/(.*)$", docs, re.MULTILINE)
    done = subprocess.run([programs / "edge-vqa", *shlex.split(service)[1:]], env=environment, capture_output=True, check=False)
    assert f"SuccessExitStatus={done.returncode}" in docs and json.loads(done.stdout)["abstained"]
