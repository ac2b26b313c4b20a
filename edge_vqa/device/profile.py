"""Which device is this, and what suits it. Device profiles live in `devices/`."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.threads import Threads

SMALL_LM_BYTES = 32 * 2**20
MOST_THREADS = 8  # memory bandwidth, not arithmetic, limits decoding beyond
# implementer and part of /proc/cpuinfo, as in the Linux kernel's arch/arm64/include/asm/cputype.h
ARM_PARTS = {
    ("0x41", part): name
    for part, name in (
        *(("0xd03", "Cortex-A53"), ("0xd05", "Cortex-A55"), ("0xd07", "Cortex-A57"), ("0xd08", "Cortex-A72")),
        *(("0xd09", "Cortex-A73"), ("0xd0a", "Cortex-A75"), ("0xd0b", "Cortex-A76"), ("0xd0c", "Neoverse-N1")),
        *(("0xd0d", "Cortex-A77"), ("0xd41", "Cortex-A78"), ("0xd42", "Cortex-A78AE"), ("0xd4b", "Cortex-A78C")),
    )
}


def cores(root: Path = Path("/")) -> int:
    """Physical CPU cores that this process may use: those of its affinity mask, hyper-threads counted once, of big.LITTLE the
    big ones only, and no more than its control group's quota allows. At least 1. root: where /proc and /sys are."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
    cpus = root / "sys/devices/system/cpu"
    capacity = {cpu: number_of(cpus / f"cpu{cpu}/cpu_capacity") or 0 for cpu in allowed}
    best = max(capacity.values())
    # a LITTLE core has about half of a big one's capacity; waiting for it slows every matrix product down
    big = [cpu for cpu in allowed if capacity[cpu] > 0.6 * best or not best]
    physical = {text_of(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in big}
    return max(1, math.floor(min(len(physical), *(_quota(group) for group in _groups(root, "cpu")))))


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the control groups, of both versions, that bind this process: its own, then those around it. A container sees
    its own as the outermost, a service of systemd does not."""
    paths = {"": "", controller: controller}  # of version 2 and 1 -> below /sys/fs/cgroup
    own = dict.fromkeys(paths, PurePosixPath())
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, names, path = f"{line}::".split(":", 3)[:3]
        for name in own.keys() & set(names.split(",")):
            own[name] = PurePosixPath(path.lstrip("/"))
    base = root / "sys/fs/cgroup"
    return [base / paths[name] / part for name, path in own.items() for part in (path, *path.parents) if ".." not in part.parts]


def _quota(group: Path) -> float:
    """Cores' worth of time that a control group grants; infinity where nothing is said."""
    quota, _, period = text_of(group / "cpu.max").partition(" ")
    if not quota:  # version 1
        quota, period = (text_of(group / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
    try:
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else math.inf
    except ValueError:  # "max", or no such file
        return math.inf


def text_of(path: Path) -> str:
    """What a file of /proc or /sys says; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def number_of(path: Path) -> int | None:
    """The whole number that a file of /proc or /sys says; None where it says none."""
    try:
        return int(text_of(path))
    except ValueError:
        return None


def default_threads(lm_bytes: int, most: int = MOST_THREADS) -> Threads:
    """Threads for an LM of this size, at most `most`: for a few megabytes of weights, waking a second thread costs more than it
    saves."""
    return Threads.of(1 if lm_bytes <= SMALL_LM_BYTES else min(cores(), most))


# -- profiles ---------------------------------------------------------------------------------------------------------

FOLDER = Path(__file__).parents[2] / "devices"  # a package beside this one: of the same checkout, or the same wheel
GENERIC = "generic"
ORIN_RELEASE = 35  # Jetson Linux of Orin boards begins here


@dataclass(frozen=True)
class Detect:
    """How a board is recognised. compatible: beginnings of an entry of the device tree's `compatible`; model: part of the name
    that a board calls itself; tegra_release: a Jetson that tells no more; machine, system: of any computer."""

    compatible: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    system: str | None = None
    tegra_release: bool = False


@dataclass(frozen=True)
class Run:
    """What a question takes where nothing else is said. threads: at most; context: tokens of the KV cache, at most (None: room
    for the largest picture); memory_limit: share of the free memory that a bundle may take."""

    threads: int = MOST_THREADS
    context: int | None = None
    kv_type: str = "f16"
    gpu_layers: int = -1
    memory_limit: float = 0.9

    def context_in(self, room: int) -> int:
        """Tokens of the KV cache where the largest picture takes `room`."""
        return min(room, self.context or room)


@dataclass(frozen=True)
class Recommended:
    """A bundle that suits the board, how to quantise it, and its detail."""

    bundle: str
    quantisation: str
    detail: str = "low"


@dataclass(frozen=True)
class Profile:
    """A file of `devices/`; `name` is the file's."""

    name: str
    title: str
    detect: Detect
    run: Run
    recommended: Recommended


@dataclass(frozen=True)
class Device:
    """This machine. model: what it calls itself; features: flags of its CPU; how: what its profile was chosen by; known:
    whether a profile was made for it."""

    model: str
    cpu: str
    features: frozenset[str]
    profile: Profile
    how: str
    known: bool


def profiles() -> dict[str, Profile]:
    """All device profiles, by name. Raises EdgeVqaError for a file that is none."""
    import tomllib

    from edge_vqa.border.typed import typed

    found = {}
    for file in sorted(FOLDER.glob("*.toml")):
        name = file.stem
        try:
            profile: Profile = typed(tomllib.loads(file.read_text(encoding="utf-8")) | {"name": name}, Profile, "")
            if not 0 < profile.run.memory_limit <= 1 or profile.run.threads < 1:
                raise ValueError("run.memory_limit is a share, run.threads 1 or more")
        except ValueError as error:  # of TOML too
            raise EdgeVqaError(f"devices/{file.name} is no device profile ({error})", "install edge-vqa again") from None
        found[name] = profile
    return found


def profile_of(name: str | None) -> Profile:
    """The profile of that name; None: of this machine. Raises EdgeVqaError for a name that there is not."""
    if name is None:
        return detect().profile
    found = profiles()
    if name not in found:
        raise EdgeVqaError(f"no device {name!r} is known", f"use one of {', '.join(found)}")
    return found[name]


def detect(root: Path = Path("/"), *, machine: str | None = None, system: str | None = None) -> Device:
    """Which device this is. Everything that cannot be read is as if it were not there. root: where /proc and /etc are."""
    machine, system = (machine or platform.machine()).lower(), system or sys.platform
    tree = root / "proc/device-tree"
    compatible = [entry for entry in text_of(tree / "compatible").split("\0") if entry]
    info = _cpuinfo(root)
    model = text_of(tree / "model").rstrip("\0") or info.get("model", "")  # a Pi's cpuinfo says it too, in a container as well
    known = profiles()

    def chosen() -> tuple[Profile, str]:
        for profile in known.values():
            if any(entry.startswith(start) for entry in compatible for start in profile.detect.compatible):
                return profile, "device tree"
        for profile in known.values():
            if any(part in model for part in profile.detect.model):
                return profile, "model name"
        release = re.match(r"# R(\d+) ", text_of(root / "etc/nv_tegra_release"))
        if release and int(release[1]) >= ORIN_RELEASE and not compatible:  # a container without a device tree
            for profile in known.values():
                if profile.detect.tegra_release:
                    return profile, "nv_tegra_release, which does not say the board: the smaller one's profile"
        for profile in known.values():
            if machine in profile.detect.machine and profile.detect.system in (None, system):
                return profile, "CPU"
        return known[GENERIC], "nothing: a safe generic profile"

    profile, how = chosen()
    cpu = _cpu(info) or machine
    features = frozenset((info.get("flags") or info.get("features") or "").split())
    return Device(model or cpu, cpu, features, profile, how, profile.name != GENERIC)


def cpu_name() -> str:
    """The processor of this machine, as Linux tells it; else what the platform says."""
    return _cpu(_cpuinfo(Path("/")))


def _cpu(info: dict[str, str]) -> str:
    part = info.get("cpu part", "")
    return info.get("model name") or ARM_PARTS.get((info.get("cpu implementer", ""), part), part) or platform.processor()


def _cpuinfo(root: Path) -> dict[str, str]:
    """Keys of /proc/cpuinfo in small letters, each as it comes first. `model` is a board's name, and on x86 a number."""
    found: dict[str, str] = {}
    for line in text_of(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        key = key.strip()
        found.setdefault("model" if key == "Model" else "" if key == "model" else key.lower(), value.strip())
    return found


def _cached(group: Path) -> int:
    """Bytes of a control group's memory that are copies of files: the kernel drops them when programs need the room."""
    stat = dict(line.split(" ", 1) for line in text_of(group / "memory.stat").splitlines() if " " in line)
    sizes = (stat.get(f"total_{kind}_file") or stat.get(f"{kind}_file") or "0" for kind in ("active", "inactive"))
    return sum(int(size) for size in sizes if size.isdecimal())


def memory_bytes(root: Path = Path("/")) -> tuple[int, int] | None:
    """Bytes of memory of this machine, or of the control group, and those that are free; None where nobody says."""
    info = {}
    for line in text_of(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdecimal():
            info[key] = 1024 * int(number[0])
    if "MemTotal" not in info:
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if root == Path("/") else 0
        except (OSError, ValueError):
            total = 0
        return (total, total) if total else None
    total, free = info["MemTotal"], info.get("MemAvailable", info["MemTotal"])
    for group in _groups(root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most = number_of(group / limit) or 0
            if 0 < most < info["MemTotal"]:
                total, free = min(total, most), min(free, most - (number_of(group / used) or 0) + _cached(group))
    return total, max(0, free)
