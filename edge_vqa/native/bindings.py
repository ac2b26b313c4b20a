"""The border to llama.cpp: loads its bindings, keeps its log off the terminal, and remembers its last complaint."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import trial
from edge_vqa.native.trial import Library

_last_lines: list[str] = []
_verbose = False
_ggml: ctypes.CDLL | None = None
_library: Library | None = None
_extra: list[tuple[int, bytes]] | None = None  # llama.cpp's extra buffer types, with their names
_callback: Any = None  # llama.cpp keeps only the pointer: the object must live as long as the process


def load() -> tuple[ModuleType, ModuleType]:
    """The low-level modules `llama_cpp.llama_cpp` and `llama_cpp.mtmd_cpp`.

    The package's own `__init__` imports a server's worth of modules, two thirds of the import time, and none of them is
    needed here: the submodules are loaded beside it, and a later `import llama_cpp` elsewhere still runs in full. Raises
    EdgeVqaError where the library does not work on this CPU (`trial.library`).
    """
    global _callback
    if _callback is None:
        variant = library().variant
        name = "llama_cpp"
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise EdgeVqaError("llama-cpp-python is not installed", "pip install edge-vqa")
        present = name in sys.modules
        if not present:
            sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            llama = importlib.import_module("llama_cpp.llama_cpp")
            mtmd = importlib.import_module("llama_cpp.mtmd_cpp")
        except Exception as error:  # a library that does not load raises OSError, RuntimeError, AttributeError
            raise EdgeVqaError(
                f"llama-cpp-python does not load ({error})",
                "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
            ) from None
        finally:
            if not present:
                del sys.modules[name]

        def log(level: int, text: bytes | None, _: object) -> None:
            line = (text or b"").decode(errors="replace")
            if _verbose:
                sys.stderr.write(line)
            if level >= 3:  # GGML_LOG_LEVEL_WARN, GGML_LOG_LEVEL_ERROR
                _last_lines[:] = [*_last_lines[-7:], line.strip()]

        _callback = llama.llama_log_callback(log)
        for set_log in (llama.llama_log_set, mtmd.mtmd_log_set, mtmd.mtmd_helper_log_set):
            set_log(_callback, None)
        if variant:
            _load_variant(Path(str(llama.__file__)).parent / "lib", variant)
        llama.llama_backend_init()
        if library().without_amx:
            list_extra_buffers(without=b"AMX")
    return sys.modules["llama_cpp.llama_cpp"], sys.modules["llama_cpp.mtmd_cpp"]


def library() -> Library:
    """How llama.cpp is used on this CPU."""
    global _library
    if _library is None:
        _library = trial.library()
    return _library


def use(chosen: Library) -> None:
    """Settle how llama.cpp is used, before `load` is called for the first time: for a trial, or a measurement."""
    global _library
    assert _callback is None
    _library = chosen


def use_extra_buffers(wanted: bool) -> None:
    """Settle it for the LMs that are loaded from now on."""
    global _library
    _library = replace(library(), extra_buffers=wanted)


def _load_variant(folder: Path, variant: str) -> None:
    """Give a build that carries several variants of its CPU code one of them."""
    loader = ctypes.CDLL(str(folder / "libggml.so"))
    loader.ggml_backend_load.restype = ctypes.c_void_p
    loader.ggml_backend_load.argtypes = [ctypes.c_char_p]
    if not loader.ggml_backend_load(str(folder / variant).encode()):
        raise EdgeVqaError(
            f"llama.cpp's CPU code {variant} does not load ({last_complaint() or 'no reason given'})",
            "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        )


def list_extra_buffers(without: bytes = b"") -> list[bytes]:
    """Let llama.cpp use its extra buffer types but the named one, for which it has no switch; returns the names of those.

    Its list is an array of pointers that ends with null, asked for by every load of an LM (llama.cpp, make_cpu_buft_list).
    """
    global _extra
    base, loader = ggml(), ctypes.CDLL(str(trial.folder() / "libggml.so"))
    pointer = ctypes.c_void_p
    loader.ggml_backend_dev_by_type.restype = pointer
    base.ggml_backend_dev_backend_reg.restype, base.ggml_backend_dev_backend_reg.argtypes = pointer, [pointer]
    base.ggml_backend_reg_get_proc_address.restype = pointer
    base.ggml_backend_reg_get_proc_address.argtypes = [pointer, ctypes.c_char_p]
    base.ggml_backend_buft_name.restype, base.ggml_backend_buft_name.argtypes = ctypes.c_char_p, [pointer]
    cpu = loader.ggml_backend_dev_by_type(0)  # GGML_BACKEND_DEVICE_TYPE_CPU
    registered = base.ggml_backend_dev_backend_reg(cpu)
    address = base.ggml_backend_reg_get_proc_address(registered, b"ggml_backend_dev_get_extra_bufts")
    types = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(cpu)
    if _extra is None:
        listed = iter(iter(types).__next__, None)  # ctypes reads on for ever: null is the end
        _extra = [(kind, base.ggml_backend_buft_name(kind)) for kind in listed]
    kept = [(kind, name) for kind, name in _extra if name != without]
    for place, (kind, _) in enumerate(kept):
        types[place] = kind
    types[len(kept)] = None
    return [name for _, name in kept]


def ggml() -> ctypes.CDLL:
    """The tensor library under llama.cpp, for the calls that the bindings leave out."""
    global _ggml
    if _ggml is None:
        llama, _ = load()
        # on Linux and macOS a library of its own, on Windows a DLL
        names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
        found = [path for name in names for path in (Path(str(llama.__file__)).parent / "lib").glob(name)]
        _ggml = ctypes.CDLL(str(found[0]) if found else llama._lib._name)
        _ggml.ggml_get_name.restype = ctypes.c_char_p
        _ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
        _ggml.ggml_op_name.restype = ctypes.c_char_p
        _ggml.ggml_glu_op_name.restype = ctypes.c_char_p
        for name in ("ggml_backend_tensor_set", "ggml_backend_tensor_get"):
            getattr(_ggml, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return _ggml


def floats(pointer: Any, *shape: int) -> npt.NDArray[np.float32]:
    """What a pointer to floats points to, as an array of this shape: a view. numpy's `as_array` leaves a circle of objects each
    time, one for every token."""
    memory = (ctypes.c_float * math.prod(shape)).from_address(ctypes.addressof(pointer.contents))
    return np.frombuffer(memory, np.float32).reshape(shape)  # type: ignore[call-overload, no-any-return]


def set_verbose(verbose: bool) -> None:
    """Let llama.cpp's own log through to stderr."""
    global _verbose
    _verbose = verbose


def last_complaint() -> str:
    """llama.cpp's last warning or error, for an error message; empty when it was silent."""
    return next((line for line in reversed(_last_lines) if line), "")


def cpu_features() -> frozenset[str]:
    """CPU features that llama.cpp was compiled with, in its own names: AVX2, DOTPROD, ..."""
    llama, _ = load()
    said: bytes = llama.llama_print_system_info() or b""
    return frozenset(re.findall(r"(\w+) = 1", said.decode(errors="replace")))
