"""A library that does not work on this CPU ends no process: it runs another way, or one line says what to do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_vqa.border import child
from edge_vqa.bundles import store
from edge_vqa.device import sensors, tuning
from edge_vqa.native import bindings, trial
from tests.conftest import EXAMPLES, PROGRAMS

# instructions that no CPU has: ud2 on x86-64, udf on arm64
UNDEFINED = b"\x0f\x0b\x0f\x0b"


def broken(folder: Path, *functions: str) -> Path:
    """A copy of the installed llama-cpp-python in which functions of the CPU code begin with an undefined instruction."""
    shutil.copytree(trial.folder().parent, folder / "llama_cpp", ignore=shutil.ignore_patterns("__pycache__"))
    for library in (folder / "llama_cpp" / "lib").glob("libggml-cpu*.so*"):
        break_functions(library, *functions)
    return folder


def break_functions(library: Path, *functions: str) -> None:
    """Let functions of a shared library begin with an undefined instruction; a part of their names is enough."""
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    content = bytearray(library.read_bytes())
    names = {fields[2]: int(fields[0], 16) for fields in map(str.split, listed.splitlines())}
    hit = [place for name, place in names.items() if any(part in name for part in functions)]
    assert hit, f"{functions} are not in {library.name}"
    sections = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    text = next(line.split("]")[1].split() for line in sections.splitlines() if "] .text" in line)
    shift = int(text[3], 16) - int(text[2], 16)  # from address to place in the file
    for place in hit:
        content[place + shift : place + shift + 4] = UNDEFINED
    library.write_bytes(content)


def ask(library: Path, home: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], float]:
    settings = os.environ | {"PYTHONPATH": str(library), "EDGE_VQA_HOME": str(home)}
    began = time.perf_counter()
    done = subprocess.run([*command], capture_output=True, text=True, env=settings, check=False)
    return done, time.perf_counter() - began


FRUIT = (str(PROGRAMS / "edge-vqa"), "ask", str(EXAMPLES / "fruit.png"), "what is left of the banana?")


def test_broken_extra_buffers_are_switched_off_and_the_answer_stays(tmp_path: Path) -> None:
    library, home = broken(tmp_path / "broken", "ggml_gemm_", "ggml_gemv_"), tmp_path / "home"
    done, _ = ask(library, home, *FRUIT)
    assert (done.returncode, done.stdout) == (0, "apple\n"), done.stderr
    (kept,) = (home / "trials").glob("library-*.json")
    verdict = json.loads(kept.read_text())["verdict"]
    assert verdict["extra_buffers"] is False and "SIGILL" in verdict["off"][0]
    told, _ = ask(library, home, str(PROGRAMS / "edge-vqa"), "doctor")
    assert "switched off: extra buffer types" in told.stdout and "SIGILL" in told.stdout
    assert told.returncode == 0, "it works, and nothing better can be advised"


def test_one_extra_buffer_type_can_be_left_out() -> None:
    """As AMX is, where a compiler made faulty code of it; in a process of its own, as it holds to the end of one."""
    code = (
        "import numpy as np; from edge_vqa.native import bindings; from edge_vqa.checks.trial_child import SAME, _products;"
        "print(*bindings.list_extra_buffers(b'AMX'));"
        "extra, plain = (_products(extra_buffers=on) for on in (True, False));"
        "print(abs(extra - plain).max() < SAME * np.ptp(plain));"
        "print(*set(bindings.list_extra_buffers(b'CPU_REPACK')) - {b'AMX'});"
        "print(b'CPU_REPACK' in bindings.list_extra_buffers())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["b'CPU_REPACK'", "True", "", "True"], "what llama.cpp has besides AMX"


@pytest.mark.parametrize(
    "command",
    [
        FRUIT,
        (str(PROGRAMS / "edge-vqa"), "bench", "--repeat", "1"),
        (sys.executable, "-m", "benchmarks.endurance"),
        (sys.executable, "-c", "import edge_vqa; edge_vqa.load()"),
    ],
    ids=["ask", "bench", "a benchmark", "Python"],
)
def test_a_library_that_cannot_run_here_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    library = broken(tmp_path / "broken", "ggml_vec_dot_q4_0_q8_0", "ggml_gemm_", "ggml_gemv_")
    done, _ = ask(library, tmp_path / "home", *command)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "llama.cpp was compiled with does not work here" in last and "pip install --force-reinstall" in last, done.stderr


def test_where_onnx_runtime_cannot_run_one_line_says_what_goes_without_it(tmp_path: Path) -> None:
    installed = importlib.util.find_spec("onnxruntime")
    assert installed is not None and installed.origin is not None
    library, home = tmp_path / "broken", tmp_path / "home"
    shutil.copytree(Path(installed.origin).parent, library / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))
    (code,) = (library / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    break_functions(code, "PyInit_")
    refused, _ = ask(library, home, *FRUIT)
    assert refused.returncode == 1 and "SIGILL" in refused.stderr and "--confidence maxprob" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
    done, _ = ask(library, home, *FRUIT, "--confidence", "maxprob")
    assert (done.returncode, done.stdout) == (0, "apple\n"), done.stderr
    told, _ = ask(library, home, str(PROGRAMS / "edge-vqa"), "doctor")
    assert told.returncode == 1 and "ONNX Runtime" in told.stdout and "Traceback" not in told.stderr


def test_where_onnx_runtime_cannot_run_llama_cpp_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = store.read(store.EMBEDDED / "mini")
    files = bundle.manifest.files
    manifest = dataclasses.replace(bundle.manifest, files={**files, "vision_onnx": files["vision"]})
    both = dataclasses.replace(bundle, manifest=manifest)
    monkeypatch.setattr(bindings, "_library", trial.Library(onnxruntime="it ended the process (SIGILL)"))
    assert tuning.choose(both).vision == "mtmd"
    assert tuning.choose(both, vision="onnx").vision == "onnx", "who asks for it is told why not"


def test_an_installation_for_another_cpu_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "cpu_flags", lambda: frozenset({"pni", "ssse3", "avx", "fpu"}))
    said = str(trial._no_way(("SSE3", "AVX", "AVX2", "AVX512", "OPENMP")))
    assert "compiled for AVX2, AVX512, which this CPU lacks" in said and "GGML_NATIVE=ON" in said


def test_a_verdict_is_kept_until_library_or_cpu_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path))
    first = trial._tried()
    assert trial._known() == first
    monkeypatch.setattr(trial, "_stamp", lambda: [["moved", 1, 2, 3, 4]])
    assert trial._known() == first, "the same content in another place on the disk"
    monkeypatch.setattr(trial, "_stamp", lambda: [["replaced", 1, 2, 3, 4]])
    monkeypatch.setattr(trial, "_digest", lambda: "another")
    assert trial._known() is None
    monkeypatch.undo()
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path))
    told = trial._cpu() | {"model name": "another", "CPU part": "another"}
    monkeypatch.setattr(trial, "_cpu", lambda: told)
    assert trial._known() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"stamp": 1}', '{"verdict": {"variant": "../x.so"}}', "[" * 10**5])
def test_a_kept_verdict_that_does_not_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path))
    kept = trial._path()
    kept.parent.mkdir()
    kept.write_text(content)
    assert trial._known() is None


def test_where_no_process_can_start_or_nothing_be_kept_it_goes_on_the_safe_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    done, _ = ask(tmp_path, nowhere / "home", *FRUIT)
    assert (done.returncode, done.stdout) == (0, "apple\n"), done.stderr
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/usr/sbin/some-server")
    verdict = trial._tried()
    assert not verdict.tested and not verdict.extra_buffers and "not tried" in verdict.off[0]
    assert not (tmp_path / "trials").exists(), "the next start tries"


def test_two_processes_that_try_at_once_agree(tmp_path: Path) -> None:
    settings = os.environ | {"EDGE_VQA_HOME": str(tmp_path)}
    both = [subprocess.Popen(FRUIT, stdout=subprocess.PIPE, text=True, env=settings) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["apple\n", "apple\n"]
    assert len(list((tmp_path / "trials").iterdir())) == 1, "one verdict, no work files"


@pytest.mark.alone
def test_the_trial_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    for number in range(3):
        monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / str(number)))
        began = time.perf_counter()
        verdict = trial._tried()
        times.append(time.perf_counter() - began)
        assert verdict.tested and verdict.features and trial._known() == verdict
    assert min(times) < 0.4 * slack(), f"{min(times):.2f} s"


def slack() -> float:
    """A machine that runs other things besides: two threads that wait for each other suffer more than their share."""
    return 2.0 * (1 + 2 * (sensors.busy() or 0.0))


def test_a_child_that_hangs_fills_memory_or_dies_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults.py").write_text(
        "import os, signal, time\n"
        "def main(what):\n"
        "    yield 'begun'\n"
        "    if what == 'hang': time.sleep(60)\n"
        "    if what == 'fill': b'x' * 10**9; yield 'filled'\n"
        "    os.kill(os.getpid(), getattr(signal, what))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(what: str) -> child.Ended:
        return child.run("faults", what, seconds=2, memory=300 * 10**6)

    assert "did not end within 2 s" in run("hang").reason
    assert run("fill").lines == ("begun",)
    died = run("SIGILL")
    assert died.signal == "SIGILL" and died.lines == ("begun",)
