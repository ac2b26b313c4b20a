"""Whether what is native works here, found out in a child process before this one depends on it, and remembered.

The libraries: llama.cpp has instructions of the CPU that it was compiled for, or by a faulty compiler, and ends a process that
runs on another; ONNX Runtime chooses by what the system tells of the CPU, which may be wrong. A bundle: a file that claims
what is not so ends it too, or takes all memory. Verdicts lie below `$EDGE_VQA_HOME/trials`; one that cannot be kept costs the
next start the same time, nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_vqa.border import child
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from concurrent.futures import Future

SCHEMA = 3
CHILD = "edge_vqa.checks.trial_child"
LIBRARY_SECONDS = 60.0  # a second on most devices; in an emulator twenty
# what a CPU calls it -> what llama.cpp calls it; each makes matrix products faster
FEATURES = {
    **{"sse3": "SSE3", "pni": "SSE3", "ssse3": "SSSE3", "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C"},
    **{"bmi2": "BMI2", "avx512f": "AVX512", "avx512_vbmi": "AVX512_VBMI", "avx512vbmi": "AVX512_VBMI"},
    **{"avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "avx_vnni": "AVX_VNNI", "amx_int8": "AMX_INT8"},
    **{"asimd": "NEON", "asimddp": "DOTPROD", "asimdhp": "FP16_VA", "i8mm": "MATMUL_INT8", "sve": "SVE", "sme": "SME"},
}
REBUILD = (
    'CMAKE_ARGS="{}" pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python=={}'
)
NATIVE, PORTABLE = "-DGGML_NATIVE=ON", "-DGGML_NATIVE=OFF"
NO_AMX = '-DCMAKE_{0}_FLAGS=\\"-mno-amx-tile -mno-amx-int8 -mno-amx-bf16\\"'
WITHOUT_AMX = " ".join((NATIVE, NO_AMX.format("C"), NO_AMX.format("CXX")))


@dataclass(frozen=True)
class Library:
    """How llama.cpp and ONNX Runtime are to be used on this CPU.

    variant: file name of its CPU code, where a build carries several; empty where there is one. extra_buffers: whether
    weights may be laid out anew for instructions of this CPU (AMX, repacked products); without_amx: not for AMX. features:
    what the CPU code was compiled with, in llama.cpp's names. off: what was tried and is not used, with the reason. tested:
    False where no trial could be made. onnxruntime: why ONNX Runtime does not work here; empty where it does.
    """

    variant: str = ""
    extra_buffers: bool = False
    features: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    tested: bool = True
    without_amx: bool = False
    onnxruntime: str = ""

    @property
    def amx(self) -> bool:
        """Whether products run on AMX tiles: of weights laid out for them only."""
        return "AMX_INT8" in self.features and self.extra_buffers and not self.without_amx


_library: Library | None = None


def library() -> Library:
    """How to use the installed libraries here, tried where CPU or library are new. Raises EdgeVqaError where llama.cpp has no
    way to run."""
    global _library
    if _library is None:
        _library = _known() or _tried()
    return _library


def folder() -> Path:
    """Where the installed llama-cpp-python keeps its libraries. Nothing native is loaded to find out."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EdgeVqaError("llama-cpp-python is not installed", "pip install edge-vqa")
    return Path(spec.origin).parent / "lib"


def variants() -> list[str]:
    """File names of the CPU code of a build that carries several, none for any other. The best one is for the trial to find."""
    return sorted(path.name for path in folder().glob("libggml-cpu-*.so"))


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this CPU, in its own names."""
    return frozenset(_cpu().get("flags", _cpu().get("Features", "")).split())


def _cpu() -> dict[str, str]:
    """What Linux says of the first processor; the others are like it, or slower ones that are given no work."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 - quicker, at every start
            block = iter(stream.readline, "\n")
            pairs = (line.partition(":") for line in block if line)
            found: dict[str, str] = {}
            for key, colon, value in pairs:
                if not colon:
                    break
                found[key.strip()] = value.strip()
            return found
    except OSError:
        return {}


# what tells one kind of CPU from another: on x86-64, then on arm64
_KIND = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)


def _key() -> str:
    """Of this kind of CPU and these places of the libraries."""
    told = _cpu()
    kind = [told.get(key, "") for key in _KIND] if told else [platform.machine(), platform.processor()]
    return hashlib.sha256(repr((SCHEMA, kind, *map(str, _folders()))).encode()).hexdigest()[:16]


def _path() -> Path:
    """Where its verdict lies."""
    from edge_vqa.bundles.store import home

    return home() / "trials" / f"library-{_key()}.json"


def _folders() -> list[Path]:
    """Where the libraries lie; ONNX Runtime may be missing, for a bundle that needs none."""
    found = importlib.util.find_spec("onnxruntime")
    return [folder(), *([Path(found.origin).parent / "capi"] if found and found.origin else [])]


def _files() -> list[Path]:
    files = (path for place in _folders() for path in place.glob("*"))
    return sorted(path for path in files if ".so" in path.name or path.suffix in (".dylib", ".dll", ".pyd"))


def _stamp() -> list[Any]:
    """What changes when a library is replaced, without reading it."""
    told = [(path.name, path.stat()) for path in _files()]
    return [[name, said.st_size, said.st_mtime_ns, said.st_ctime_ns, said.st_ino] for name, said in told]


def _digest() -> str:
    """Of the libraries' content."""
    whole = hashlib.sha256()
    for path in _files():
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _known() -> Library | None:
    """The verdict that was kept, if library and CPU are still the same."""
    try:
        path = _path()
        if not path.is_file():
            return None
        kept = json.loads(path.read_text())
        verdict = _library_of(kept["verdict"])
        if kept["stamp"] == _stamp():
            return verdict
        if kept["digest"] != _digest():
            return None
        _keep(path, kept | {"stamp": _stamp()})
        return verdict
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _library_of(value: Any) -> Library:
    from edge_vqa.border.typed import typed

    made: Library = typed(value, Library, "verdict")
    if made.variant and made.variant not in variants():
        raise ValueError("a variant that is not here")
    return made


def _keep(path: Path, value: Any) -> None:
    from edge_vqa.border.whole import write_bytes

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(value).encode())
    except (OSError, EdgeVqaError):
        pass  # it costs the next start the same time


def _tried() -> Library:
    """Try every way of llama.cpp, the fastest first, until one works; ONNX Runtime beside it."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as beside:
        stamp = _stamp()
        other = beside.submit(child.run, CHILD, {"onnxruntime": True}, seconds=LIBRARY_SECONDS)
        digest = beside.submit(_digest)
        return _tried_beside(other, digest, stamp)


def _tried_beside(other: Future[child.Ended], digest: Future[str], stamp: list[Any]) -> Library:
    off: list[str] = []
    features: tuple[str, ...] = ()
    fault = False
    for variant in ranked() if variants() else [""]:
        ended = child.run(CHILD, {"library": variant}, seconds=LIBRARY_SECONDS)
        if not ended.started:
            return Library(variant, tested=False, off=(f"extra buffer types: not tried, {ended.reason}",))
        done = ended.said
        if "failed" in done:
            raise EdgeVqaError(f"llama.cpp does not load ({done['failed']})", rebuild(NATIVE))
        features = tuple(done.get("features", ()))
        died = ended.signal in child.FAULTS
        if not (done.get("plain") and done.get("tower")):
            off.append(f"{variant or 'llama.cpp'}: {ended.reason or 'wrong products'}")
            fault = fault or died
            continue
        extra = done.get("extra") is True
        without_amx = not extra and done.get("without_amx") is True
        if not extra:
            off.append(f"{'AMX' if without_amx else 'extra buffer types'}: {ended.reason or 'wrong products'}")
        onnxruntime = _complaint(other.result())
        verdict = Library(variant, extra or without_amx, features, tuple(off), without_amx=without_amx, onnxruntime=onnxruntime)
        hung = ended.reason and not died
        if not hung and child.LATE not in onnxruntime:  # it may be another program's fault: tried again next time
            _keep(_path(), {"stamp": stamp, "digest": digest.result(), "verdict": asdict(verdict)})
        return verdict
    if fault:
        raise _no_way(features)
    raise EdgeVqaError(f"llama.cpp does not work on this CPU ({'; '.join(off)})", rebuild(NATIVE))


def _complaint(ended: child.Ended) -> str:
    """Why ONNX Runtime does not work, of the child that tried it."""
    if ended.said.get("onnxruntime") is True or not ended.started:
        return ""
    return str(ended.said.get("failed") or ended.reason or "wrong numbers")


def ranked() -> list[str]:
    """Variants that this CPU can run by their own judgement, the best first. They are asked in a child."""
    ended = child.run(CHILD, {"rank": variants()}, seconds=LIBRARY_SECONDS)
    ranked = [name for line in ended.lines if isinstance(line, list) for name in line]
    return ranked or [name for name in variants() if name.endswith(("-x64.so", "-armv8.0_1.so"))]


def _no_way(features: Sequence[str]) -> EdgeVqaError:
    """What to say where the library ends every process that uses it."""
    flags = cpu_flags()
    own, known = own_features(flags), set(FEATURES.values())
    missing = [name for name in features if name in known and name not in own] if flags else []
    if missing:
        return EdgeVqaError(f"llama.cpp was compiled for {', '.join(missing)}, which this CPU lacks", rebuild(NATIVE))
    if features:
        used = ", ".join(name for name in features if name in known)
        return EdgeVqaError(
            f"an instruction of {used} that llama.cpp was compiled with does not work here", rebuild(WITHOUT_AMX)
        )
    best = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "AVX" if "avx" in flags else "SSE4.2"
    beyond = f"beyond {best}" if "flags" in _cpu() else "that this CPU lacks"
    return EdgeVqaError(f"llama.cpp was compiled for another CPU: it has instructions {beyond}", rebuild(NATIVE))


def own_features(flags: frozenset[str] | None = None) -> frozenset[str]:
    """What this CPU has (or one with these flags), in llama.cpp's names."""
    flags = cpu_flags() if flags is None else flags
    return frozenset(ours for theirs, ours in FEATURES.items() if theirs in flags)


def rebuild(arguments: str) -> str:
    """The command that compiles llama.cpp again, with these arguments of CMake."""
    from importlib.metadata import version

    return REBUILD.format(arguments, version("llama-cpp-python"))
