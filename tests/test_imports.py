"""Imports point one way, and the runtime stays lean."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("edge_vqa", "converters", "selector_onnx", "devices")
MAY_IMPORT = {
    "edge_vqa": {"edge_vqa"},
    "converters": {"converters", "edge_vqa"},
    "selector_onnx": {"selector_onnx", "edge_vqa"},
    "devices": {"devices"},
}
# What conversion takes from the runtime: the manifest, what describes ready files, errors, the border to llama.cpp, and
# the word that a bundle was made here.
CONVERTERS_MAY_TAKE = {
    *("admission", "bundle", "device", "errors", "gguf_file", "native", "ready", "template", "terminal", "untrusted")
}
# Calibration and comparison ask questions, as the device does, and may take the rest.
THEY_ASK = {"calibration.py", "compare.py", "cli.py"}
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "gguf", "onnx", "jinja2", "sklearn", "pandas", "huggingface_hub")
# within the runtime: a module may import those before it
ORDER = (
    ("camera", "child", "cli_options", "errors", "streams", "terminal", "untrusted", "visible"),
    ("bundle", "claims", "device", "gguf_file", "metrics", "native", "onnx_file", "onnx_session", "sensors", "trace", "trial"),
    ("answer", "class_token", "llama", "picture", "questions", "template"),
    ("ready",),
    ("pull",),
    ("prompt", "vision", "vision_mtmd", "vision_onnx", "confidence", "gate", "watch"),
    ("engine",),
    ("cache", "memory", "tuning"),
    ("admission",),
    ("many", "model", "trial_child"),
    ("batch", "bench", "doctor", "evaluation"),
    ("tuner",),
    ("bench_tables", "report"),
    ("cli_device", "cli_models"),
    ("cli",),
    ("__main__",),
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_stands_below_them(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            if top in (*PACKAGES, "recipes", "tests"):
                assert top in MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {name}"


def test_converters_take_only_the_manifest_and_the_border_from_the_runtime() -> None:
    for path in (ROOT / "converters").rglob("*.py"):
        if path.name in THEY_ASK:
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "edge_vqa" and len(parts) > 1:
                assert parts[1] in CONVERTERS_MAY_TAKE, f"{path.relative_to(ROOT)} imports {name}"


def test_the_runtime_is_layered() -> None:
    layer = {name: number for number, names in enumerate(ORDER) for name in names}
    for path in (ROOT / "edge_vqa").glob("*.py"):
        if path.stem == "__init__":
            continue
        assert path.stem in layer, f"{path.name} has no place in the order"
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "edge_vqa" and len(parts) > 1 and parts[1] in layer and parts[1] != path.stem:
                below = layer[parts[1]] < layer[path.stem] or (parts[1], path.stem) == ("bundle", "native")
                assert below or parts[1] in ORDER[layer[path.stem]], f"{path.stem} imports {parts[1]}"


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in out.stdout.splitlines()}


def test_importing_the_package_loads_nothing_heavy_or_native() -> None:
    modules = loaded_after("import edge_vqa")
    assert not modules & {*HEAVY, "llama_cpp", "onnxruntime", "numpy", "PIL"}


def test_answering_a_question_loads_only_the_runtime_packages() -> None:
    modules = loaded_after("import edge_vqa\nwith edge_vqa.load() as m: m.ask('examples/price.png', 'how much is it?')")
    assert not modules & set(HEAVY), modules & set(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["ask"], ["models", "--help"]])
def test_help_and_wrong_usage_load_nothing_native(arguments: list[str]) -> None:
    code = f"sys.argv = ['edge-vqa', *{arguments!r}]\nfrom edge_vqa.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert not loaded_after(code) & {"llama_cpp", "onnxruntime", "numpy", "PIL"}
