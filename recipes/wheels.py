"""Wheels for devices without a compiler: edge-vqa and everything that it needs, for x86-64 and arm64 Linux.

    make wheels                                         # about 25 minutes on two cores, nothing the second time
    pip install --no-index --find-links wheels edge-vqa # on the device, after copying the folder there

llama.cpp is compiled once for each platform, with all variants of its CPU code: from SSE4.2 to AVX-512 and AMX, from ARMv8.0
to i8mm, SVE and SME. edge-vqa chooses among them on the device, by trial. Clang compiles, as GCC 12 drops what AMX tiles need
to be set up, and does not know SME. OpenMP is left out: its library would have to be there; llama.cpp has threads of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
CLANG = "clang-19"
NEEDED = (CLANG, "gcc-aarch64-linux-gnu", "g++-aarch64-linux-gnu", "cmake", "ninja-build")
PYTHON = "3.11"
FLAGS = {
    "CMAKE_C_COMPILER": CLANG,
    "CMAKE_CXX_COMPILER": CLANG.replace("clang", "clang++"),
    "CMAKE_BUILD_TYPE": "Release",
    # one file a library: a wheel holds no links, and would carry each three times
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",
    "CMAKE_INSTALL_BINDIR": "llama_cpp/lib",  # where llama.cpp puts the variants
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    "GGML_OPENMP": "OFF",
}


class Platform(NamedTuple):
    """machine: as Python calls it; flags: of CMake, beside FLAGS; strip: the program that removes debug symbols."""

    machine: str
    flags: dict[str, str]
    strip: str


X86_64 = Platform("x86_64", {}, "strip")
ARM64 = Platform(
    "aarch64",
    {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER_TARGET": "aarch64-linux-gnu",
        "CMAKE_CXX_COMPILER_TARGET": "aarch64-linux-gnu",
    },
    "aarch64-linux-gnu-strip",
)
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: object, **settings: object) -> None:
    print("$", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, **settings)  # type: ignore[call-overload]


def compile_llama(platform: Platform, folder: Path) -> Path:
    """The wheel of llama-cpp-python for a platform; the one that is there, if it is of the same version."""
    wanted = version("llama-cpp-python")
    for made in folder.glob(f"llama_cpp_python-{wanted}-*_{platform.machine}.whl"):
        return made
    flags = " ".join(f"-D{name}={value}" for name, value in (FLAGS | platform.flags).items())
    settings = os.environ | {"CMAKE_ARGS": flags, "_PYTHON_HOST_PLATFORM": f"linux-{platform.machine}"}
    with tempfile.TemporaryDirectory() as work:
        source = ("--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python")
        run(*PIP, "wheel", *source, "-w", work, f"llama-cpp-python=={wanted}", env=settings)
        (compiled,) = Path(work).glob("llama_cpp_python-*.whl")
        return _packed(compiled, platform, folder)


def _packed(wheel: Path, platform: Platform, folder: Path) -> Path:
    """The wheel without what a device does not need, named after the oldest glibc that it runs with."""
    with tempfile.TemporaryDirectory() as work:
        run(sys.executable, "-m", "wheel", "unpack", "-d", work, wheel)
        (top,) = Path(work).iterdir()
        for place in ("lib", "include", "bin"):  # CMake's installation, a second copy
            shutil.rmtree(top / place, ignore_errors=True)
        shutil.rmtree(top / "llama_cpp" / "include", ignore_errors=True)
        libraries = sorted((top / "llama_cpp" / "lib").iterdir())
        needed = set()
        for path in libraries:
            if path.suffix != ".so":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                continue
            run(platform.strip, "--strip-unneeded", path)
            needed |= set(re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes()))
        tag = f"manylinux_2_{max(map(int, needed))}_{platform.machine}"
        run(sys.executable, "-m", "wheel", "pack", "-d", work, top)
        (packed,) = Path(work).glob("*.whl")
        run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, packed)
        (tagged,) = Path(work).glob("*.whl")
        return Path(shutil.move(tagged, folder / tagged.name))


def gather(platform: Platform, package: Path, folder: Path) -> None:
    """What edge-vqa needs beside it, as wheels for a platform."""
    kinds = [f"manylinux_2_{minor}_{platform.machine}" for minor in range(36, 16, -1)]  # 36: Debian 12, Raspberry Pi OS
    kinds += [f"manylinux2014_{platform.machine}", f"linux_{platform.machine}"]
    platforms = [argument for kind in kinds for argument in ("--platform", kind)]
    python = ("--python-version", PYTHON, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none")
    run(*PIP, "download", "-q", "--only-binary", ":all:", *platforms, *python, "--find-links", folder, "-d", folder, package)


def make(folder: Path, platforms: tuple[Platform, ...] = (X86_64, ARM64)) -> None:
    """Everything into one folder."""
    missing = [program for program in (CLANG, "ninja", "aarch64-linux-gnu-gcc") if shutil.which(program) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} missing: apt-get install {' '.join(NEEDED)}")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("edge_vqa-*.whl"):
        old.unlink()
    run(*PIP, "wheel", "-q", "--no-deps", "-w", folder, ROOT, ROOT / "models" / "base")
    (package,) = folder.glob("edge_vqa-*.whl")
    for platform in platforms:
        compile_llama(platform, folder)
        gather(platform, package, folder)
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 1e6:.0f} MB; on the device:")
    print(f"pip install --no-index --find-links {folder.name} edge-vqa edge-vqa-base")


def main() -> None:
    parser = argparse.ArgumentParser(description="Wheels for devices without a compiler.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "wheels", help="folder (default: wheels)")
    make(parser.parse_args().output)


if __name__ == "__main__":
    main()
