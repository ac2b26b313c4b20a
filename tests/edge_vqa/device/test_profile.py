"""Which board this is, its profile, its memory and its sensors; recorded boards lie in tests/data/boards."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.device import profile, sensors
from edge_vqa.llm import threads
from edge_vqa.model import load
from tests.conftest import EXAMPLES, ROOT, Run, one_line

BOARDS = ROOT / "tests" / "data" / "boards"
NAMES = ("apple_silicon", "generic", "jetson_agx_orin", "jetson_orin_nano", "raspberry_pi_4", "raspberry_pi_5", "x86_64")


def write(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}")


@pytest.mark.parametrize("name", ["raspberry_pi_5", "raspberry_pi_4", "jetson_orin_nano", "jetson_agx_orin"])
def test_a_recorded_board_is_recognised(name: str) -> None:
    found = profile.detect(BOARDS / name, machine="aarch64", system="linux")
    assert (found.profile.name, found.how, found.known) == (name, "device tree", True)
    assert found.model == (BOARDS / name / "proc/device-tree/model").read_text().rstrip("\0")


def test_cpus_are_recognised_where_there_is_no_board() -> None:
    found = profile.detect(BOARDS / "x86_64", machine="x86_64", system="linux")
    assert (found.profile.name, found.how, found.cpu) == ("x86_64", "CPU", "AMD EPYC")
    assert "avx512_vnni" in found.features
    assert profile.detect(Path("/nonexistent"), machine="arm64", system="darwin").profile.name == "apple_silicon"
    assert profile.detect(Path("/nonexistent"), machine="AMD64", system="win32").profile.name == "x86_64"


def test_a_pi_is_recognised_in_a_container_without_a_device_tree(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", (BOARDS / "raspberry_pi_4/proc/cpuinfo").read_text())
    found = profile.detect(tmp_path, machine="aarch64", system="linux")
    assert (found.profile.name, found.how, found.cpu) == ("raspberry_pi_4", "model name", "Cortex-A72")
    assert "asimddp" not in found.features


def test_a_jetson_that_says_no_more_gets_the_smaller_profile(tmp_path: Path) -> None:
    shutil.copytree(BOARDS / "jetson_agx_orin/etc", tmp_path / "etc")
    found = profile.detect(tmp_path, machine="aarch64", system="linux")
    assert found.profile.name == "jetson_orin_nano" and "does not say the board" in found.how


@pytest.mark.parametrize("board", ["jetson_nano_2019", "nothing there"])
def test_an_unknown_board_gets_a_safe_profile(board: str) -> None:
    found = profile.detect(BOARDS / board, machine="aarch64", system="linux")
    assert (found.profile.name, found.known) == ("generic", False)
    assert found.profile.run.gpu_layers == 0 and "generic" in found.how


def test_hostile_files_are_as_good_as_none(tmp_path: Path) -> None:
    for name in (
        "proc/device-tree/compatible",
        "proc/device-tree/model",
        "proc/cpuinfo",
        "etc/nv_tegra_release",
        "proc/meminfo",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\xff\xfe\x00: \x80 : :\n\n:::" * 100)
    assert profile.detect(tmp_path, machine="aarch64", system="linux").profile.name == "generic"
    assert profile.memory_bytes(tmp_path) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_answers_a_question(name: str) -> None:
    assert tuple(profile.profiles()) == NAMES
    assert (ROOT / "devices" / f"{name}.md").is_file() or name == "generic", "every board has a guide"
    with load(device=name) as model:
        answer = model.ask(EXAMPLES / "price.png", "how much is it?")
        assert (answer.text, answer.calibrated, model.profile.name) == ("$4.50", True, name)


def test_a_device_by_name_on_the_command_line(run: Run) -> None:
    done = run("edge-vqa", "ask", EXAMPLES / "price.png", "how much is it?", "--device", "raspberry_pi_5")
    assert (done.returncode, done.stdout) == (0, "$4.50\n")
    assert "use one of apple_silicon" in one_line(
        run("edge-vqa", "ask", EXAMPLES / "price.png", "what?", "--device", "toaster")
    )


def test_the_profile_caps_threads_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profile.default_threads(10**9, most=1) == threads.Threads(1, 1, 1)
    small = dataclasses.replace(profile.profiles()["generic"], run=profile.Run(threads=1, context=256, gpu_layers=0))
    monkeypatch.setattr(profile, "profiles", lambda: {"generic": small})
    with load(device="generic") as model:
        assert model.n_ctx == 256
    with load(device="generic", context=512) as model:
        assert model.n_ctx == 512, "what is said counts"


def test_half_a_core_is_one(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000")
    assert profile.cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/system.slice/door.service", {"system.slice/door.service/cpu.max": "150000 100000"}),
        ("0::/a.slice/door.service", {"a.slice/cpu.max": "100000 100000", "a.slice/door.service/cpu.max": "max 100000"}),
        ("4:memory:/x\n3:cpu,cpuacct:/door", {"cpu/door/cpu.cfs_quota_us": "100000", "cpu/door/cpu.cfs_period_us": "100000"}),
        ("0::/../door.service", {"cpu.max": "100000 100000"}),  # as a container sees it
        ("nonsense", {"cpu.max": "100000 100000"}),
    ],
)
def test_the_quota_is_that_of_the_process_and_of_what_is_around_it(groups: str, files: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", groups)
    for file, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{file}", text)
    assert profile.cores(tmp_path) == 1
    assert profile.cores(tmp_path / "elsewhere") == len(os.sched_getaffinity(0))


def test_memory_is_that_of_the_control_group(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:       8000000 kB\nMemFree: 100 kB\nMemAvailable:   6000000 kB\n")
    assert profile.memory_bytes(tmp_path) == (8_192_000_000, 6_144_000_000)
    write(tmp_path, "sys/fs/cgroup/memory.max", 1_000_000_000)
    write(tmp_path, "sys/fs/cgroup/memory.current", 300_000_000)
    assert profile.memory_bytes(tmp_path) == (1_000_000_000, 700_000_000)
    write(tmp_path, "proc/self/cgroup", "0::/system.slice/door.service")
    write(tmp_path, "sys/fs/cgroup/system.slice/door.service/memory.max", 500_000_000)
    write(tmp_path, "sys/fs/cgroup/system.slice/door.service/memory.current", 450_000_000)
    assert profile.memory_bytes(tmp_path) == (500_000_000, 50_000_000)
    write(tmp_path, "sys/fs/cgroup/system.slice/door.service/memory.stat", "active_file 20000000\ninactive_file 330000000")
    assert profile.memory_bytes(tmp_path) == (500_000_000, 400_000_000), "cached files make room"
    write(tmp_path, "proc/self/cgroup", "0::/")
    write(tmp_path, "sys/fs/cgroup/memory.max", "max")
    assert profile.memory_bytes(tmp_path) == (8_192_000_000, 6_144_000_000)


def test_a_damaged_profile_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "odd.toml", 'title = "x"\nspeed = 3\n')
    monkeypatch.setattr(profile, "FOLDER", tmp_path)
    with pytest.raises(EdgeVqaError, match=r"devices/odd\.toml is no device profile"):
        profile.profiles()


# -- sensors ----------------------------------------------------------------------------------------------------------


def test_absent_sensors_are_none(tmp_path: Path) -> None:
    assert sensors.temperature(tmp_path) is sensors.throttling(tmp_path) is sensors.power_mode(tmp_path) is None
    meter = sensors.Meter(tmp_path)
    meter.start()
    assert meter.source is meter.stop() is None


def test_the_hottest_part_of_the_processor_counts_and_lies_do_not(tmp_path: Path) -> None:
    zones = {"cpu-thermal": 54321, "gpu-thermal": 61000, "battery": 70000, "soc0-thermal": -256000, "tj-thermal": 999000}
    for number, (kind, value) in enumerate(zones.items()):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", value)
    write(tmp_path, "sys/class/thermal/thermal_zone9/type", "cpu")
    write(tmp_path, "sys/class/thermal/thermal_zone9/temp", "hot")
    assert sensors.temperature(tmp_path) == 61.0


def test_a_pi_tells_what_holds_its_clock_down(tmp_path: Path) -> None:
    file = "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(tmp_path, file, "50005")
    assert sensors.throttling(tmp_path) == sensors.Throttling(("under-voltage", "throttled"), ("under-voltage", "throttled"))
    write(tmp_path, file, "0")
    assert sensors.throttling(tmp_path) == sensors.Throttling()
    write(tmp_path, file, "what?")
    assert sensors.throttling(tmp_path) is None


def test_counted_throttling(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/hwmon/hwmon1/oc1_event_cnt", 3)
    write(tmp_path, "sys/class/hwmon/hwmon1/oc2_event_cnt", 4)
    assert sensors.throttling(tmp_path) == sensors.Throttling(events=7)


def test_a_clock_that_the_kernel_lowers_for_heat(tmp_path: Path) -> None:
    for number, kind in enumerate(("cpufreq-cpu0", "pwm-fan", "17000000.gpu-devfreq")):
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/cur_state", 0)
    write(tmp_path, "sys/class/thermal/cooling_device1/cur_state", 3)  # a fan that turns
    assert sensors.throttling(tmp_path) == sensors.Throttling()
    write(tmp_path, "sys/class/thermal/cooling_device0/cur_state", 2)
    assert sensors.throttling(tmp_path) == sensors.Throttling(("heat (cpufreq-cpu0)",))
    write(tmp_path, "sys/class/thermal/cooling_device0/cur_state", "much")
    assert sensors.throttling(tmp_path) == sensors.Throttling()


def test_other_programs_are_seen(tmp_path: Path) -> None:
    assert sensors.busy(tmp_path) is None
    write(tmp_path, "proc/stat", "cpu  10 0 10 900 0 0 0 0 0 0\ncpu0 5 0 5 450 0 0 0 0 0 0\ncpu1 5 0 5 450 0 0 0 0 0 0")
    assert sensors.busy(tmp_path, 0) is None, "a clock that stands still"
    write(tmp_path, "proc/stat", "what?")
    assert sensors.busy(tmp_path, 0) is None
    idle = sensors.busy()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.2)
        loaded = sensors.busy()
        other.kill()
    assert idle is not None and loaded is not None and loaded > sensors.BUSY


def test_energy_by_a_counter_that_wraps(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    write(tmp_path, f"{zone}/name", "package-0")
    write(tmp_path, f"{zone}/energy_uj", 9_000_000)
    write(tmp_path, f"{zone}/max_energy_range_uj", 10_000_000)
    meter = sensors.Meter(tmp_path)
    meter.start()
    write(tmp_path, f"{zone}/energy_uj", 2_000_000)
    assert (meter.source, meter.stop()) == ("RAPL", pytest.approx(3.0))


def test_energy_by_samples_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = "sys/class/hwmon/hwmon2"
    for name, value in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 2000}.items():
        write(tmp_path, f"{chip}/{name}", value)
    monkeypatch.setattr(sensors, "SAMPLE_S", 0.01)
    meter = sensors.Meter(tmp_path)
    meter.start()
    import time

    began = time.monotonic()
    time.sleep(0.3)
    joules = meter.stop()
    assert meter.source == "INA3221"
    assert joules is not None and joules == pytest.approx(10 * (time.monotonic() - began), rel=0.3)
    write(tmp_path, f"{chip}/curr1_input", 10**9)
    assert sensors.Meter(tmp_path).source is None, "gigawatts are a lie"
