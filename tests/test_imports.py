"""Imports point one way, the runtime stays lean, and files stay small."""

from __future__ import annotations

import ast
import re
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
# What conversion takes from the runtime; calibration, recovery and comparison ask questions, as the device does, and may take
# the rest.
CONVERTERS_MAY_TAKE = ("bundles", "border", "native", "errors", "visible", "device.admission", "device.profile", "cli.terminal")
THEY_ASK = {"calibration.py", "compare.py", "cli.py", "asked.py", "conversion.py"}
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "gguf", "onnx", "jinja2", "sklearn", "pandas")
HEAVY += ("huggingface_hub", "ray", "pyarrow", "fsspec", "llm", "lmms_eval")
# Within the runtime: a room (a folder, or a file beside the folders) may import from those before it only
ROOMS = (
    *("visible", "errors", "metrics", "border", "bundles", "pictures", "native", "trust", "vision", "llm", "notebook"),
    *("answer", "device"),
    *("session", "model", "checks", "work", "cluster", "serve", "adapters", "cli", "__main__"),
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


def test_converters_take_only_bundles_and_the_border_from_the_runtime() -> None:
    for path in (ROOT / "converters").rglob("*.py"):
        if path.name in THEY_ASK:
            continue
        for name in modules_imported(path):
            own = name.removeprefix("edge_vqa.")
            assert own == name or own.startswith(CONVERTERS_MAY_TAKE), f"{path.relative_to(ROOT)} imports {name}"


def modules_imported(path: Path) -> set[str]:
    """Of our own modules, those that a file imports, wherever in it and for whatever purpose."""
    found = {name for name in imported(path) if module_file(name) is not None}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def module_file(name: str) -> Path | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    place = ROOT / Path(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def test_a_room_imports_from_the_rooms_below_it() -> None:
    for path in (ROOT / "edge_vqa").rglob("*.py"):
        own = room_of(path)
        if own == "__init__":
            continue
        assert own in ROOMS, f"{own} has no place in the order"
        for name in modules_imported(path) - {"edge_vqa"}:
            parts = name.split(".")
            if parts[0] == "edge_vqa" and parts[1] != own:
                assert ROOMS.index(parts[1]) < ROOMS.index(own), f"{path.relative_to(ROOT)} imports {name}, which is above it"


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT / "edge_vqa").parts[0]
    return first.removesuffix(".py")


def test_no_imports_go_in_a_circle() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    graph = {path: {module_file(name) for name in modules_imported(path)} - {path, None} for path in files}
    # a package is loaded before its modules: what its `__init__` imports of them itself is no circle
    graph = {
        path: {to for to in below if to.name != "__init__.py"} for path, below in graph.items() if path.name != "__init__.py"
    }
    while graph:
        free = {path for path, below in graph.items() if not below & graph.keys()}
        assert free, "a circle: " + ", ".join(sorted(str(path.relative_to(ROOT)) for path in graph))
        graph = {path: below for path, below in graph.items() if path not in free}


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_small(package: str) -> None:
    """At most 400 lines a file, and 60 a function, but where a comment above it says why it is long."""
    for path in (ROOT / package).rglob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, f"{path.relative_to(ROOT)} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                long = (node.end_lineno or 0) - node.lineno + 1 > 60
                assert not long or lines[first - 2].startswith("# long, and whole: "), f"{path.relative_to(ROOT)}: {node.name}"


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


def test_the_index_of_the_architecture_names_what_is_there() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\S+\.py)` \| `(\w+)` \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) >= 20
    for file, name in rows:
        assert re.search(rf"^\s*(def |class )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"
