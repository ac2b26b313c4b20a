"""What the board measures about itself: temperature, throttling, power mode, energy. What is absent, or absurd, is None.

Sources: thermal zones, cooling devices that slow a clock, cpufreq and powercap (RAPL) in Linux's sysfs; the INA3221 of a Jetson
through hwmon; `vcgencmd` of a Raspberry Pi (https://www.raspberrypi.com/documentation/computers/os.html#vcgencmd).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.device.profile import number_of, text_of

ROOT = Path("/")
PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}  # bits of get_throttled
TEMPERATURES = (-40.0, 150.0)  # degrees Celsius that a board can have
MOST_WATTS = 2000.0
SAMPLE_S = 0.2
BUSY = 0.5  # cores, from which on other programs are worth a word


@dataclass(frozen=True)
class Throttling:
    """What holds the clock down now; what has done so since start-up; and how often, where that is counted."""

    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    events: int = 0


def temperature(root: Path = ROOT) -> float | None:
    """Degrees Celsius of the hottest part of the processor that is measured."""
    thermal = root.glob("sys/class/thermal/thermal_zone*")
    zones = [(text_of(zone / "type").lower(), number_of(zone / "temp")) for zone in thermal]
    for chip in root.glob("sys/class/hwmon/hwmon*"):
        if text_of(chip / "name") in ("coretemp", "k10temp", "zenpower"):
            zones += [("cpu", number_of(file)) for file in chip.glob("temp*_input")]
    sane = [(kind, value / 1000) for kind, value in zones if value is not None]
    sane = [(kind, value) for kind, value in sane if TEMPERATURES[0] < value < TEMPERATURES[1] and value != 0]
    processor = [value for kind, value in sane if re.search(r"cpu|gpu|soc|pkg|tj", kind)]
    return max(processor or [value for _, value in sane], default=None)


def throttling(root: Path = ROOT) -> Throttling | None:
    """Whether the clock is held down; None where nothing tells."""
    told = _vcgencmd("get_throttled", root) or text_of(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    match = re.search(r"(?:0x)?([0-9a-fA-F]+)$", told)
    if match:  # a Raspberry Pi
        bits = int(match[1], 16)
        now = tuple(text for bit, text in PI_NOW.items() if bits >> bit & 1)
        return Throttling(now, tuple(text for bit, text in PI_NOW.items() if bits >> 16 + bit & 1))
    cooling = [
        (text_of(cooler / "type"), number_of(cooler / "cur_state")) for cooler in root.glob("sys/class/thermal/cooling_device*")
    ]
    slowed = [(kind, state) for kind, state in cooling if state is not None and re.search("cpufreq|devfreq|Processor", kind)]
    counters = [*root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")]  # over-current events of a Jetson
    counters += root.glob("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
    counts = [count for count in map(number_of, counters) if count is not None and count >= 0]
    now = tuple(f"heat ({kind})" for kind, state in slowed if state > 0)
    return Throttling(now, events=sum(counts)) if slowed or counts else None


def power_mode(root: Path = ROOT) -> str | None:
    """The mode of a Jetson (`nvpmodel`), else the governor of the clock."""
    if root == ROOT and shutil.which("nvpmodel"):
        match = re.search(r"NV Power Mode: *(\S+)", _run(["nvpmodel", "-q"]))
        if match:
            return match[1]
    return text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def busy(root: Path = ROOT, seconds: float = 0.25) -> float | None:
    """Cores that run programs while this one sleeps. The threads of a model all wait for one whose core is shared."""

    def ticks() -> tuple[int, int] | None:
        first, *lines = text_of(root / "proc/stat").splitlines() or [""]
        spent = [int(number) for number in first.split()[1:9] if number.isdecimal()]  # up to `steal`; guests are in `user`
        cores = sum(line.startswith("cpu") for line in lines)
        return (sum(spent) - sum(spent[3:5]), sum(spent) // cores) if len(spent) >= 5 and cores else None

    before = ticks()
    time.sleep(seconds if before else 0)
    after = ticks()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return max(0.0, (after[0] - before[0]) / (after[1] - before[1]))


class Meter:
    """Energy between `start` and `stop`, from a counter (RAPL) or from samples of power (INA3221, the Pi 5's `pmic_read_adc`).

    `source` says which; None where the board measures nothing.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._joules = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._counters: dict[Path, int] = {}
        packages = [
            zone for zone in root.glob("sys/class/powercap/intel-rapl:*") if text_of(zone / "name").startswith("package")
        ]
        self._packages = [zone for zone in packages if number_of(zone / "energy_uj") is not None]  # readable for root only
        self.source: str | None = "RAPL" if self._packages else None
        if self.source is None and (found := _power(root)):
            self.source = found[0]

    def start(self) -> None:
        if self._packages:
            self._counters = {zone: number_of(zone / "energy_uj") or 0 for zone in self._packages}
        elif self.source:
            self._thread = threading.Thread(target=self._sample, name="edge-vqa power", daemon=True)
            self._thread.start()

    def _sample(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(SAMPLE_S):
            found, now = _power(self._root), time.monotonic()
            if found:
                self._joules += found[1] * (now - last)
            last = now

    def stop(self) -> float | None:
        """Joules; None for a sensor that is absent or says what cannot be."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        for zone, before in self._counters.items():
            after = number_of(zone / "energy_uj")
            if after is None:
                return None
            around = number_of(zone / "max_energy_range_uj") or 0
            self._joules += (after - before if after >= before else after - before + around) / 1e6
        return self._joules if self.source and self._joules > 0 else None


def _power(root: Path) -> tuple[str, float] | None:
    """Source and watts of the whole board, now."""
    for chip in root.glob("sys/class/hwmon/hwmon*"):
        if text_of(chip / "name") != "ina3221":
            continue
        rails = {text_of(label): label.name[2:-6] for label in chip.glob("in*_label")}
        number = rails.get("VDD_IN") or rails.get("VDD_GPU_SOC")  # the Orin Nano's input; the largest rail of the AGX Orin
        volts, amperes = (number_of(chip / f"{kind}{number}_input") for kind in ("in", "curr"))
        if volts and amperes and 0 < volts * amperes / 1e6 < MOST_WATTS:
            return "INA3221", volts * amperes / 1e6
    told = _vcgencmd("pmic_read_adc", root)
    values = {(name, kind): float(value) for name, kind, value in re.findall(r"(\w+)_([AV]) \w+\(\d+\)=([\d.]+)[AV]", told)}
    watts = sum(value * values.get((name, "V"), 0.0) for (name, kind), value in values.items() if kind == "A")
    return ("pmic_read_adc", watts) if 0 < watts < MOST_WATTS else None


def _vcgencmd(command: str, root: Path) -> str:
    return _run(["vcgencmd", command]) if root == ROOT and shutil.which("vcgencmd") else ""


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
