"""`edge-vqa doctor` finds what is wrong when it is provoked, and says what to do."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.checks import doctor
from edge_vqa.checks.doctor import Finding, examine
from edge_vqa.device import profile as devices
from edge_vqa.native import bindings, trial
from edge_vqa.native.trial import Library
from tests.conftest import CHECKPOINT, Run, edit_manifest, resign

BOARDS = Path(__file__).parents[2] / "data" / "boards"


def found(**how: Any) -> dict[str, Finding]:
    """What is not well, by what it is about."""
    return {finding.about: finding for finding in examine(**how) if finding.level in (doctor.WARNING, doctor.PROBLEM)}


def test_all_is_well_here(run: Run) -> None:
    done = run("edge-vqa", "doctor")
    assert done.returncode == 0, done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok")][:3] == [
        "device",
        "recommended",
        "cpu",
    ]
    assert "red and blue pictures differ" in done.stdout
    listed = json.loads(run("edge-vqa", "doctor", "--json").stdout)
    assert {"level", "about", "text", "todo"} == listed[0].keys()


def compiled(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    """As if llama.cpp were compiled with these, whatever CPU the tests run on."""
    monkeypatch.setattr(bindings, "library", lambda: Library(features=features))
    monkeypatch.setattr(bindings, "cpu_features", lambda: frozenset(features))


def test_a_generic_build_on_a_capable_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(monkeypatch, "SSE3", "AVX")
    finding = found(test=False, root=BOARDS / "x86_64")["llama.cpp"]
    assert "AVX2" in finding.text and "AVX512_VNNI" in finding.text
    assert "GGML_NATIVE=ON" in finding.todo and "pip install" in finding.todo


def test_a_generic_wheel_on_a_pi(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(monkeypatch, "NEON", "ARM_FMA")
    assert "DOTPROD, FP16_VA" in found(test=False, root=BOARDS / "raspberry_pi_5")["llama.cpp"].text
    assert "llama.cpp" not in found(test=False, root=BOARDS / "raspberry_pi_4"), "a Pi 4 has no more"


def test_a_build_without_amx_is_all_that_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compilers of today make AMX code of it that crashes: nobody is sent there."""
    shutil.copytree(BOARDS / "x86_64", tmp_path, dirs_exist_ok=True)
    info = tmp_path / "proc/cpuinfo"
    info.write_text(info.read_text().replace(" avx2 ", " avx2 amx_tile amx_int8 amx_bf16 "))
    has = trial.own_features(devices.detect(tmp_path).features)
    assert "AMX_INT8" in has
    compiled(monkeypatch, *(has - {"AMX_INT8"}))
    assert "llama.cpp" not in found(test=False, root=tmp_path)
    compiled(monkeypatch, "SSE3")
    assert "-mno-amx-int8" in found(test=False, root=tmp_path)["llama.cpp"].todo


def test_what_a_trial_switched_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(monkeypatch, "AMX_INT8", "AVX512")
    off = ("AMX: it ended the process (SIGILL)",)
    monkeypatch.setattr(bindings, "library", lambda: Library(extra_buffers=True, off=off, without_amx=True))
    findings = list(examine(test=False))
    told = [finding for finding in findings if "switched off" in finding.text]
    assert len(told) == 1 and told[0].level == doctor.NOTE and "AMX" in told[0].text
    cpu = next(finding.text for finding in findings if finding.about == "cpu")
    assert "llama.cpp uses AVX512, extra buffer types;" in cpu and "not used: AMX_INT8" in cpu


def test_the_vision_tower_of_another_model(copied: Path, tmp_path: Path) -> None:
    """Of the same shape, as two fine-tunes of one model are: nothing but the answers tells."""
    path = copied / "mmproj.gguf"
    damaged = bytearray(path.read_bytes())
    start = len(damaged) // 2
    damaged[start:] = bytes(len(damaged) - start)  # its last layers are nothing
    path.write_bytes(damaged)
    assert "mmproj.gguf" in found(name=copied)["bundle"].text
    resign(copied)
    finding = found(name=copied)["self-test"]
    assert finding.level == doctor.PROBLEM and ("look the same" in finding.text or "a red and a blue" in finding.text)


def test_a_vision_tower_of_another_width(copied: Path) -> None:
    shutil.copyfile(copied / "lm.gguf", copied / "mmproj.gguf")
    resign(copied)
    assert found(name=copied)["self-test"].level == doctor.PROBLEM


def test_a_checksum_that_does_not_match(copied: Path, run: Run) -> None:
    path = copied / "lm.gguf"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    finding = found(name=copied)["bundle"]
    assert finding.level == doctor.PROBLEM and "lm.gguf" in finding.text
    assert run("edge-vqa", "doctor", "--model", copied).returncode == 1


def test_a_missing_selector(copied: Path, tmp_path: Path) -> None:
    (copied / "selector.onnx").unlink()
    assert "selector.onnx" in found(name=copied)["bundle"].text
    convert(CHECKPOINT, tmp_path / "plain", Options(quant="q8_0", vision_type="q8_0", max_tokens=12))
    finding = found(name=tmp_path / "plain", test=False)["selector"]
    assert "edge-vqa-selector fit" in finding.todo


def test_too_little_memory(tmp_path: Path) -> None:
    shutil.copytree(BOARDS / "raspberry_pi_4", tmp_path, dirs_exist_ok=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 60000 kB\n")
    findings = list(examine(root=tmp_path))
    finding = next(finding for finding in findings if finding.about == "memory")
    assert finding.level == doctor.PROBLEM and "needs about" in finding.text and "MB" in finding.text
    assert not any(finding.about == "self-test" for finding in findings), "it is not loaded"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9, 5 * 10**6))
    assert "full: 5 MB are free" in found(test=False)["disk"].text


def test_a_throttled_board(tmp_path: Path) -> None:
    shutil.copytree(BOARDS / "raspberry_pi_5", tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/devices/platform/soc/soc:firmware").mkdir(parents=True)
    (tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("50005\n")
    assert "under-voltage, throttled" in found(test=False, root=tmp_path)["board"].text
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal")
    (zone / "temp").write_text("83000")
    (tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("0\n")
    assert "83 °C" in found(test=False, root=tmp_path)["board"].text


def test_another_llama_cpp_than_the_traces(copied: Path) -> None:
    edit_manifest(copied, lambda manifest: manifest["runtime"].update(llama_cpp_python="0.3.1"))
    finding = found(name=copied)["build"]
    assert "0.3.1" in finding.text and "pip install llama-cpp-python==0.3.1" in finding.todo


def test_an_unknown_board_is_told_so() -> None:
    findings = [finding for finding in examine(root=BOARDS / "jetson_nano_2019", test=False) if finding.about == "device"]
    assert findings[0].level in (doctor.NOTE, doctor.OK)
    assert "NVIDIA Jetson Nano Developer Kit" in findings[0].text


def test_the_embedded_bundle_knows_its_colours(mini: store.Bundle) -> None:
    assert not found(name="mini")
