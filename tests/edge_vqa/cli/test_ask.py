"""The `edge-vqa` command: contract of the JSON, exit statuses, and one clear line for every bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles.store import Bundle
from tests.conftest import EXAMPLES, Run, edit_manifest, one_line, resign
from tests.converters.random_checkpoints import make

PRICE, DARK = EXAMPLES / "price.png", EXAMPLES / "dark.png"
QUESTION = "how much is it?"


def test_an_answer_goes_to_stdout_and_the_verdict_to_stderr(run: Run) -> None:
    result = run("edge-vqa", "ask", PRICE, QUESTION)
    assert (result.returncode, result.stdout) == (0, "$4.50\n")
    assert result.stderr.startswith(("confidence 0.", "confidence over 0.99")) and "the threshold for 5% risk" in result.stderr


def test_an_abstention_prints_no_answer_and_exits_with_3(run: Run) -> None:
    result = run("edge-vqa", "ask", DARK, "what is this?")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("not answered: confidence 0.")
    shown = run("edge-vqa", "ask", DARK, "what is this?", "--show-candidate")
    assert shown.returncode == 3 and shown.stdout == "" and 'the guess was "' in shown.stderr


def test_no_gate_and_stream_print_the_candidate(run: Run) -> None:
    assert run("edge-vqa", "ask", DARK, "what is this?", "--no-gate").returncode == 0
    streamed = run("edge-vqa", "ask", PRICE, QUESTION, "--stream")
    assert streamed.stdout.strip() == "$4.50" and streamed.returncode == 0


KEYS = {
    "answer": (str, type(None)),
    "candidate": (str, type(None)),
    "abstained": bool,
    "reason": (str, type(None)),
    "confidence": float,
    "confidence_method": str,
    "familiarity": float,
    "threshold": (float, type(None)),
    "risk_target": (float, type(None)),
    "calibrated": bool,
    "maxprob": float,
    "model": str,
    "tokens": list,
    "timings": dict,
    "image_tokens": int,
    "prompt_tokens": int,
}


@pytest.mark.parametrize(("picture", "question", "status"), [(PRICE, QUESTION, 0), (DARK, "what is this?", 3)])
def test_json_is_one_object_with_the_keys_of_the_contract(run: Run, picture: Path, question: str, status: int) -> None:
    result = run("edge-vqa", "ask", picture, question, "--json")
    assert result.returncode == status and result.stderr == ""
    decoded = json.loads(result.stdout)
    assert list(decoded) == list(KEYS)
    for key, kind in KEYS.items():
        assert isinstance(decoded[key], kind), f"{key} is {decoded[key]!r}"
    assert set(decoded["timings"]) == {"load_s", "image_s", "prompt_s", "decode_s", "gate_s", "total_s"}
    assert decoded["confidence_method"] == "selector" and decoded["model"] == "mini" and decoded["image_tokens"] == 16
    if status == 0:
        assert decoded["answer"] == decoded["candidate"] == "$4.50"
        assert all(set(token) == {"text", "logprob", "entropy"} for token in decoded["tokens"])
    else:
        assert decoded["reason"] == "confidence"
        assert decoded["abstained"] and decoded["answer"] is decoded["candidate"] is None and decoded["tokens"] == []


def test_several_pictures_need_a_model_that_takes_them(run: Run, tmp_path: Path) -> None:
    refused = run("edge-vqa", "ask", PRICE, DARK, QUESTION)
    assert (refused.returncode, refused.stdout) == (1, "") and "one picture a question" in one_line(refused)
    convert(make(tmp_path / "checkpoint", "qwen2_vl"), tmp_path / "bundle", Options(quant="q8_0"))
    asked = run("edge-vqa", "ask", PRICE, DARK, QUESTION, "--model", tmp_path / "bundle", "--no-gate", "--json")
    assert asked.returncode == 0 and json.loads(asked.stdout)["answer"], asked.stderr


def test_thoughts_are_of_models_that_think(run: Run, copied: Path) -> None:
    plain = run("edge-vqa", "ask", PRICE, QUESTION, "--think", "4")
    assert (plain.returncode, plain.stdout) == (0, "$4.50\n") and "mini does not think" in plain.stderr
    assert run("edge-vqa", "ask", PRICE, QUESTION, "--no-think").stderr == run("edge-vqa", "ask", PRICE, QUESTION).stderr
    marks = {"begin": "<row_1_col_1>", "end": "<row_1_col_2>", "begun": True, "skip": None, "most": 3}
    edit_manifest(copied, lambda manifest: manifest["prompt"].update(thinking=marks))
    thought = run("edge-vqa", "ask", PRICE, QUESTION, "--model", copied, "--think", "2")
    assert thought.returncode in (0, 3) and "were chosen with another thought, or none" in thought.stderr
    refused = run("edge-vqa", "ask", PRICE, QUESTION, "--model", copied, "--no-think")
    assert refused.returncode == 1 and "has no way not to think" in one_line(refused)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask"],
        ["ask", str(PRICE)],
        ["ask", str(PRICE), QUESTION, "--detail", "huge"],
        ["ask", str(PRICE), QUESTION, "--risk", "0.1", "--threshold", "0.5"],
        ["ask", str(PRICE), QUESTION, "--risk", "much"],
        ["ask", str(PRICE), QUESTION, "--stream", "--json"],
        ["ask", str(PRICE), QUESTION, "--colour"],
        ["fly"],
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]) -> None:
    result = run("edge-vqa", *arguments)
    assert result.returncode == 2 and result.stdout == "" and "Traceback" not in result.stderr


def test_bad_pictures_and_questions_cost_one_line(run: Run, tmp_path: Path) -> None:
    fake, empty, half = tmp_path / "text.jpg", tmp_path / "empty.png", tmp_path / "half.jpg"
    fake.write_text("no picture at all")
    empty.touch()
    half.write_bytes(PRICE.read_bytes()[:9000])
    assert "is not a picture" in one_line(run("edge-vqa", "ask", fake, QUESTION))
    assert "is empty" in one_line(run("edge-vqa", "ask", empty, QUESTION))
    assert "is damaged" in one_line(run("edge-vqa", "ask", half, QUESTION))
    assert "does not exist" in one_line(run("edge-vqa", "ask", tmp_path / "none.jpg", QUESTION))
    assert "the question is empty" in one_line(run("edge-vqa", "ask", PRICE, " "))
    assert "context holds" in one_line(run("edge-vqa", "ask", PRICE, "why " * 5000))
    assert "no bundle 'giant'" in one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--model", "giant"))
    assert "no operating point" in one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--risk", "0.00001"))
    assert "threads" in one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--threads", "0"))


def test_damaged_bundles_cost_one_line(run: Run, copied: Path) -> None:
    def ask() -> str:
        return one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--model", copied))

    def spoil(name: str, data: bytes) -> None:
        (copied / name).write_bytes(data)

    for name in ("selector.onnx", "lm.gguf", "mmproj.gguf"):
        if name == "lm.gguf":  # the Selector would notice another LM before llama.cpp has to

            def without_selector(manifest: dict[str, Any]) -> None:
                manifest["files"].pop("selector")
                manifest |= {"selector": None, "operating_points": []}

            edit_manifest(copied, without_selector)
        intact = (copied / name).read_bytes()
        spoil(name, intact[: len(intact) // 2])
        assert "bytes instead of" in ask()
        spoil(name, intact[:-9] + b"123456789")
        assert "does not match its checksum" in ask()
        # damaged, but with a manifest that agrees: llama.cpp and onnxruntime must refuse without a crash
        for wreck in (b"", b"GGUF", b"x" * 5000, intact[: len(intact) // 2], b"GGUF" + b"\xff" * 5000):
            spoil(name, wreck)
            resign(copied)
            assert name in ask()
        spoil(name, intact)
        resign(copied)
    intact_manifest = (copied / "bundle.json").read_text()
    (copied / "bundle.json").write_text(intact_manifest[:100])
    assert "bundle.json is not usable" in ask()


def test_a_selector_or_a_vision_tower_of_another_model_is_refused(run: Run, copied: Path, f32_bundle: Bundle) -> None:
    lm = f32_bundle.files["lm"].read_bytes()
    (copied / "lm.gguf").write_bytes(lm)

    def change(manifest: dict[str, dict[str, dict[str, object]]]) -> None:
        file = f32_bundle.manifest.files["lm"]
        manifest["files"]["lm"] |= {"bytes": file.bytes, "sha256": file.sha256}

    edit_manifest(copied, change)
    line = one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--model", copied))
    assert "was trained for another LM" in line


def test_a_prompt_that_is_not_the_models_own_is_refused(run: Run, copied: Path) -> None:
    edit_manifest(copied, lambda manifest: manifest["prompt"].update(template_sha256="0" * 64))
    assert "was not rendered from" in one_line(run("edge-vqa", "ask", PRICE, QUESTION, "--model", copied))


def test_a_bundle_without_a_selector_is_uncalibrated(run: Run, f32_bundle: Bundle) -> None:
    result = run("edge-vqa", "ask", PRICE, QUESTION, "--model", f32_bundle.folder, "--json", "--show-candidate")
    decoded = json.loads(result.stdout)
    assert decoded["confidence_method"] == "maxprob" and not decoded["calibrated"]
    assert decoded["confidence"] == pytest.approx(decoded["maxprob"])
    told = run("edge-vqa", "ask", PRICE, QUESTION, "--model", f32_bundle.folder)
    assert "uncalibrated" in told.stderr


def test_llamas_own_log_comes_only_when_asked_for(run: Run) -> None:
    assert len(run("edge-vqa", "ask", PRICE, QUESTION).stderr.splitlines()) == 1
    assert "llama_model_loader" in run("edge-vqa", "ask", PRICE, QUESTION, "--verbose").stderr


def test_debug_shows_the_traceback(run: Run) -> None:
    assert "Traceback" in run("edge-vqa", "ask", "none.jpg", QUESTION, "--debug").stderr


def test_models_list_show_and_verify(run: Run, copied: Path) -> None:
    listed = json.loads(run("edge-vqa", "models", "list", "--json").stdout)
    assert [row["name"] for row in listed if row["name"] == "mini"] == ["mini"]
    assert "rtn:q4_k_m" in run("edge-vqa", "models", "list").stdout
    assert "operating" in run("edge-vqa", "models", "show", "--json").stdout
    assert "coverage" in run("edge-vqa", "models", "show", "mini").stdout
    assert "5 files intact" in run("edge-vqa", "models", "verify", "mini").stdout
    data = bytearray((copied / "mmproj.gguf").read_bytes())
    data[-1] ^= 255
    (copied / "mmproj.gguf").write_bytes(data)
    assert "checksum" in one_line(run("edge-vqa", "models", "verify", copied))


@pytest.mark.alone
def test_ctrl_c_ends_cleanly() -> None:
    # many tiles, so that there is time to interrupt; Python itself has started well before half of it is over
    arguments = ["ask", str(PRICE), QUESTION, "--detail", "high"]
    command = [str(Path(sys.executable).with_name("edge-vqa")), *arguments]
    (took,), statuses = cold(command, runs=3), []
    for share in np.linspace(0.6, 1.0, 6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(took * share)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        assert process.returncode in (0, 3, 130), process.returncode
        statuses.append(process.returncode)
    assert 130 in statuses, statuses


def test_version_and_a_closed_pipe(run: Run) -> None:
    from edge_vqa import __version__

    assert run("edge-vqa", "--version").stdout == f"edge-vqa {__version__}\n"
    program = Path(sys.executable).with_name("edge-vqa")
    piped = subprocess.run(f"{program} ask {PRICE} '{QUESTION}' --json | true", shell=True, capture_output=True, text=True)
    assert "Traceback" not in piped.stderr


def cold(*commands: list[str], runs: int = 7) -> list[float]:
    """Seconds that the fastest process of each command takes, one of each in turn."""
    best = [float("inf")] * len(commands)
    for number in [*range(len(commands))] * runs:
        began = time.perf_counter()
        subprocess.run(commands[number], capture_output=True, check=False)
        best[number] = min(best[number], time.perf_counter() - began)
    return best


@pytest.mark.alone
def test_help_and_a_cold_question_are_quick() -> None:
    """Against what this machine needs to import the libraries that they stand on, which is most of it."""
    program = str(Path(sys.executable).with_name("edge-vqa"))
    drawn, asked, lines, parts = cold(
        [program, "--help"],
        [program, "ask", str(PRICE), QUESTION],
        [sys.executable, "-c", "import rich.console, typer.main"],
        [sys.executable, "-c", "import llama_cpp.mtmd_cpp, numpy, onnxruntime, PIL.Image"],
    )
    assert drawn <= 3 * lines, f"--help took {drawn:.2f} s, its libraries {lines:.2f} s"
    assert asked <= 2.5 * parts, f"ask took {asked:.2f} s, its libraries {parts:.2f} s"


def test_a_cold_question_stays_within_200_megabytes() -> None:
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [str(Path(sys.executable).with_name("edge-vqa")), "ask", str(PRICE), QUESTION]
    out = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = int(out.stdout) * unit
    assert peak <= 200e6, f"{peak / 1e6:.0f} MB"


def test_a_second_model_warns_when_it_is_asked(run: Run, copied: Path) -> None:
    edit_manifest(copied, lambda manifest: manifest["runtime"].update(llama_cpp_python="0.3.1"))
    asked = run("edge-vqa", "ask", EXAMPLES / "coffee.jpg", "what is this?", "--then", copied)
    assert asked.returncode == 3 and "chosen with llama-cpp-python 0.3.1" in asked.stderr
    assert "0.3.1" not in run("edge-vqa", "ask", EXAMPLES / "price.png", "how much is it?", "--then", copied).stderr
