"""Takes one frame from a camera: picamera2 where it is installed, else V4L2 or libcamera through an installed tool."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
from pathlib import Path

from edge_vqa.errors import EdgeVqaError

WAIT_S = 20  # for exposure to settle, and for a camera that hangs
# Each writes one picture to stdout. {} is the camera's device file; the tools of libcamera find it themselves.
TOOLS = {
    "rpicam-still": ["--nopreview", "--timeout", "1000", "--encoding", "jpg", "--output", "-"],
    "libcamera-still": ["--nopreview", "--timeout", "1000", "--encoding", "jpg", "--output", "-"],
    "ffmpeg": ["-loglevel", "error", "-f", "v4l2", "-i", "{}", "-frames:v", "1", "-f", "mjpeg", "-"],
    "fswebcam": ["--quiet", "--no-banner", "--skip", "5", "--device", "{}", "-"],
}
NEEDS_DEVICE = ("ffmpeg", "fswebcam")


def take(device: str | None = None, root: Path = Path("/")) -> bytes:
    """The bytes of an image file. device: a V4L2 device file (default: the first one). Raises EdgeVqaError."""
    if device is None and importlib.util.find_spec("picamera2") is not None:
        return _picamera2()
    found = device or next((str(path) for path in sorted((root / "dev").glob("video*"))), None)
    complaint = ""
    for tool, arguments in TOOLS.items():
        program = shutil.which(tool)
        if program is None or (tool in NEEDS_DEVICE and found is None) or (tool not in NEEDS_DEVICE and device is not None):
            continue
        command = [program, *(argument.format(found) for argument in arguments)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S)
        except (OSError, subprocess.TimeoutExpired):
            complaint = f"{tool} did not answer within {WAIT_S} s"
            continue
        if done.returncode == 0 and done.stdout:
            return done.stdout
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        complaint = f"{tool}: {lines[-1] if lines else f'exit status {done.returncode}'}"
    if complaint:
        raise EdgeVqaError(f"the camera gives no picture ({complaint})", "check its cable, and that no other program uses it")
    if found is None:
        raise EdgeVqaError(
            "there is no camera", "connect one, or give a picture; on a Raspberry Pi: apt install python3-picamera2"
        )
    raise EdgeVqaError(f"nothing is installed that reads {found}", "apt install ffmpeg (or fswebcam, or python3-picamera2)")


def _picamera2() -> bytes:
    try:
        from picamera2 import Picamera2

        with Picamera2() as camera:
            camera.configure(camera.create_still_configuration())
            camera.start()
            picture = io.BytesIO()
            camera.capture_file(picture, format="jpeg")
            return picture.getvalue()
    except Exception as error:  # the library's own, and those of the drivers below it
        raise EdgeVqaError(
            f"the camera gives no picture ({' '.join(str(error).split()) or type(error).__name__})",
            "check its cable, and that no other program uses it",
        ) from None
