"""Ctrl-C ends a program wherever it comes, and lets it put away its things first."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import os, signal, time
from edge_vqa.border import program
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
class Finalised:
    def __del__(self):
        interrupt()
"""
FOREVER = """
    while True:
        time.sleep(0.01)
"""
PLACES = {
    "at any place": "    interrupt()",
    "in a finaliser": "    Finalised()",
    "in the callback of a weak reference": "    import weakref\n    gone = set()\n"
    "    w = weakref.ref(gone, lambda _: interrupt())\n    del gone",
    "where everything is caught": "    try:\n        interrupt()\n    except BaseException:\n        pass",
}


def outcome(body: str) -> subprocess.CompletedProcess[str]:
    script = f"{HEAD}def app():\n{body}\nprogram.run(app, 'program')"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_ends_a_program(place: str) -> None:
    done = outcome(PLACES[place] + FOREVER)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_is_put_away_on_the_way_out_is_put_away_whole() -> None:
    done = outcome("    try:\n        interrupt()\n    finally:\n        time.sleep(1)\n        print('kept')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "kept\n", "")
