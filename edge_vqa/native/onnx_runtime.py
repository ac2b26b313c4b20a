"""The border to ONNX Runtime: loads it where it works on this CPU, and a graph with the settings of a small device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_vqa.errors import EdgeVqaError


def open_session(graph: Path | bytes, name: str, again: str, *, threads: int = 1, in_8_bits: bool = False) -> Any:
    """A graph, ready to run. name: of its file; again: what to do where it does not load; in_8_bits: whether it multiplies
    matrices so. Raises EdgeVqaError.

    From bytes, a graph that points to files outside itself does not load.
    """
    from edge_vqa.native import bindings

    if reason := bindings.library().onnxruntime:
        raise unusable(reason)
    return load(graph, name, again, threads=threads, in_8_bits=in_8_bits)


def load(graph: Path | bytes, name: str, again: str, *, threads: int = 1, in_8_bits: bool = False) -> Any:
    """`open_session`, whether ONNX Runtime was found to work here or not: for the trial."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # threads that wait for the next picture must not take the cores from llama.cpp's
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if in_8_bits:
        # x86-64 without VNNI would add two products in 16 bits, which overflow: errors of 1 to 10 % of what a tower yields. Not
        # for every graph: one whose 8-bit weights are multiplied in float32 may not load with it (as in onnxruntime 1.32)
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception:
        raise EdgeVqaError(f"{name} is not an ONNX graph that can be loaded", again) from None


def unusable(reason: str) -> EdgeVqaError:
    """What to say where ONNX Runtime does not work. reason: of the trial."""
    from importlib.metadata import PackageNotFoundError, version

    without = "without it: --confidence maxprob --vision mtmd"
    try:
        installed = version("onnxruntime")
    except PackageNotFoundError:
        return EdgeVqaError("ONNX Runtime is not installed", f"pip install onnxruntime; {without}")
    return EdgeVqaError(
        f"ONNX Runtime {installed} does not work on this CPU ({reason})",
        f"another version may: pip install 'onnxruntime!={installed}'; {without}",
    )
