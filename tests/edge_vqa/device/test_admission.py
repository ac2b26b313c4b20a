"""A bundle that was not run here before is checked and tried first: what is hostile about it ends in one line."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, load, numpy_helper

from benchmarks import hostile
from benchmarks.hostile import Gguf
from converters.convert import convert
from converters.options import Options
from edge_vqa.border import child
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import onnx_file, store
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import admission
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import load as load_model
from tests.conftest import CHECKPOINT, Run, edit_manifest, one_line, resign


def test_changed_files_never_end_a_process(tmp_path: Path, mini: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of the cases of `python -m benchmarks.hostile`."""
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    outcomes: list[str] = []
    faults = hostile.run(mini.folder, tmp_path, 3, 60, lambda done, line: outcomes.append(line))
    assert not faults, "\n".join(faults)
    assert len(outcomes) == 60 and sum("refused" in line for line in outcomes) > 15


def edit_gguf(path: Path, change: Callable[[Gguf], object]) -> None:
    made = Gguf.read(path.read_bytes())
    change(made)
    path.write_bytes(made.write())


def key(name: str, raw: bytes, kind: int | None = None) -> Callable[[Gguf], object]:
    def change(made: Gguf) -> None:
        entry = next(entry for entry in made.keys if entry[0] == name.encode())
        entry[1:] = [entry[1] if kind is None else kind, raw]

    return change


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("lm.gguf", key("llama.block_count", b"\x09\0\0\0"), "block_count is 9"),
        ("lm.gguf", key("llama.context_length", b"\0\0\0\x80"), "llama.context_length is 2147483648"),
        ("lm.gguf", key("llama.attention.head_count", b"\x03\0\0\0"), "head_count"),
        ("lm.gguf", key("llama.attention.layer_norm_rms_epsilon", b"\0\0\x80\x7f"), "is inf"),
        ("mmproj.gguf", key("clip.vision.attention.head_count", b"\0\0\0\0"), "head_count is 0"),
        ("mmproj.gguf", key("clip.vision.patch_size", b"\x07\0\0\0"), "v.position_embd.weight has the shape"),
        ("mmproj.gguf", key("general.name", b"\x01", 7), "ended the process (SIGABRT)"),
    ],
)
def test_what_a_file_claims_falsely_is_named(
    copied: Path, run: Run, file: str, change: Callable[[Gguf], object], said: str
) -> None:
    hostile.without_selectors(copied)
    edit_gguf(copied / file, change)
    resign_plain(copied)
    line = one_line(run("edge-vqa", "ask", "examples/fruit.png", "what is this?", "--model", copied))
    assert said in line and ("download or convert it again" in line), line
    assert run("edge-vqa", "doctor", "--model", copied).returncode == 1


def resign_plain(folder: Path) -> None:
    def change(manifest: dict[str, object]) -> None:
        for file in manifest["files"].values():  # type: ignore[attr-defined]
            path = folder / file["path"]
            file["bytes"], file["sha256"] = path.stat().st_size, store.sha256(path)

    edit_manifest(folder, change)


def test_only_a_bundle_that_is_new_here_is_tried(
    tmp_path: Path, copied: Path, mini: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    tried: list[str] = []
    real = child.run

    def counted(module: str, request: dict[str, str], **limits: float) -> child.Ended:
        tried.append(request.get("bundle", "library"))
        return real(module, request, **limits)  # type: ignore[arg-type]

    monkeypatch.setattr(child, "run", counted)
    for _ in range(2):
        load_model(copied).close()
    load_model("mini").close()
    convert(CHECKPOINT, tmp_path / "made", Options(quant="q8_0", vision_type="q8_0", max_tokens=12))
    load_model(tmp_path / "made").close()
    assert [name for name in tried if name != "library"] == [str(copied)]
    edit_manifest(copied, lambda manifest: manifest["prompt"].update(before="<|im_start|>"))
    load_model(copied).close()
    assert tried.count(str(copied)) == 2, "what the manifest says of the prompt counts too"


def test_a_trial_that_ends_or_hangs_is_one_line(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    bundle = store.read(copied)
    for ended, said in (
        (child.Ended(("loading it (mtmd)",), "it ended the process (SIGSEGV)", "SIGSEGV"), "while loading it (mtmd)"),
        (child.Ended((), "it did not end within 30 s"), "did not end"),
        (child.Ended((), "no process could be started"), "allow processes"),
    ):
        monkeypatch.setattr(child, "run", lambda *_, ended=ended, **__: ended)
        with pytest.raises(EdgeVqaError, match=re.escape(said)):
            admission.admit(bundle)
    assert not admission.is_known(bundle)


# -- graphs -----------------------------------------------------------------------------------------------------------


def changed(folder: Path, name: str, change: Callable[[ModelProto], object]) -> Path:
    made = load(str(folder / name))
    change(made)
    (folder / name).write_bytes(made.SerializeToString())
    resign(folder)
    return folder / name


def loop_for_ever(made: ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "many"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    made.graph.node.insert(0, helper.make_node("Loop", ["many", "yes"], [], body=body))


def double_and_double(made: ModelProto) -> None:
    value = made.graph.input[0].name
    for number in range(40):
        made.graph.node.insert(number, helper.make_node("Concat", [value, value], [f"double{number}"], axis=1))
        value = f"double{number}"


def divide_the_least(made: ModelProto) -> None:
    for name, number in (("least", -(2**63)), ("minus", -1)):
        made.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    made.graph.node.insert(0, helper.make_node("Div", ["least", "minus"], ["fault"]))


def lie_about_size(made: ModelProto) -> None:
    made.graph.initializer[0].dims[0] = 1 << 31


def point_elsewhere(made: ModelProto) -> None:
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (loop_for_ever, "Loop is not admitted|tensor .* of type 9"),
        (double_and_double, "a Concat of"),
        (divide_the_least, "Div is not admitted"),
        (lie_about_size, "does not fit"),
        (point_elsewhere, "lies elsewhere"),
    ],
)
def test_hostile_selectors_are_refused_before_they_run(copied: Path, change: Callable[[ModelProto], object], said: str) -> None:
    path = changed(copied, "selector.onnx", change)
    with pytest.raises(EdgeVqaError, match=said):
        onnx_file.check_estimator(path)
    with pytest.raises(EdgeVqaError, match=said):
        load_model(copied)


def test_metadata_that_is_no_text_is_one_line(copied: Path, run: Run) -> None:
    path = copied / "selector.onnx"
    content = path.read_bytes()
    assert b"lm_sha256" in content
    path.write_bytes(content.replace(b"lm_sha256", b"lm_\xff\xfe256"))
    resign(copied)
    assert "not an ONNX graph" in one_line(run("edge-vqa", "ask", "examples/fruit.png", "what is this?", "--model", copied))


def test_our_own_graphs_are_admitted(tmp_path: Path, mini: Bundle) -> None:
    for role in ("selector", "selector_early", "familiarity"):
        onnx_file.check_estimator(mini.files[role])
    for kind in ("f32", "f16", "int8"):
        options = Options(quant="q8_0", vision_type="f32", vision_backend="onnx", onnx_type=kind)
        convert(CHECKPOINT, tmp_path / kind, options)
        graph = onnx_file.check(tmp_path / kind / "vision.onnx", onnx_file.TOWER)
        assert len(graph.nodes) > 50


# -- changes of a bundle ----------------------------------------------------------------------------------------------


def test_a_bundle_that_is_replaced_is_the_old_or_the_new_one(copied: Path) -> None:
    """A reader that looks all the while never finds none."""
    (copied / "marker").write_text("old")
    reader = os.fork()
    if not reader:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if not (copied / manifests.MANIFEST).is_file():
                os._exit(1)
        os._exit(0)
    for number in range(50):
        with store.new_folder(copied, force=True) as work:
            (work / manifests.MANIFEST).write_text(f"{number}")
    done, status = os.waitpid(reader, os.WNOHANG)
    if not done:
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
    assert not (done and status), "for a moment there was none"
    assert (copied / manifests.MANIFEST).read_text() == "49" and len(list(copied.parent.iterdir())) == 1
