"""Changed bundles never end a process: single values of every key, arrays, the tensor table, random bytes, cuts, checksums
made to fit. Each case is loaded and asked about a picture; it may answer, or raise one EdgeVqaError.

    python -m benchmarks.hostile                 # 2,000 cases; about 15 minutes on two cores
    python -m benchmarks.hostile --cases 200 --seed 7 --keep build/hostile

A worker process asks; when it dies, hangs, raises anything else, or takes more memory than the files explain, the case counts
as a fault, is named by its seed and number, and the next worker goes on behind it.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import queue
import random
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
WHOLE = (0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 63, 64, 100, 255, 256, 257, 1000, 4095, 65535, 65536)
WHOLE += (1 << 20, 2**31 - 1, 2**31, 2**32 - 1)
REAL = (0.0, -1.0, 1e-45, 1e30, float("inf"), float("nan"))
TEXTS = (b"", b"\0", b"\xff\xfe", b"clip", b"llama", b"qwen2vl", b"gpt2", b"x" * 10**5, b"{{ 1/0 }}", b"\x1b[31m")
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1, 2**63, 1e308, "", "x", "../x", "\x1b[31mred", [], {}, [[]], [1, 2], {"a": 1})
SECONDS = 120.0  # of a case
MEMORY = 400 * 10**6  # bytes of a worker beyond what it had when it began


@dataclass
class Gguf:
    """A gguf taken apart: metadata as [key, type, raw value], tensors as [name, shape, type, offset], and the data."""

    keys: list[list[Any]]
    tensors: list[list[Any]]
    data: bytes

    @staticmethod
    def read(content: bytes) -> Gguf:
        at = 24
        n_tensors, n_keys = struct.unpack_from("<QQ", content, 8)

        def text() -> bytes:
            nonlocal at
            size = struct.unpack_from("<Q", content, at)[0]
            at += 8 + size
            return content[at - size : at]

        def value(kind: int) -> None:
            nonlocal at
            if kind == 8:
                text()
            elif kind == 9:
                inner, n = struct.unpack_from("<IQ", content, at)
                at += 12
                if inner == 8:
                    for _ in range(n):
                        text()
                else:
                    at += n * SIZES[inner]
            else:
                at += SIZES[kind]

        keys = []
        for _ in range(n_keys):
            key = text()
            kind = struct.unpack_from("<I", content, at)[0]
            at += 4
            start = at
            value(kind)
            keys.append([key, kind, content[start:at]])
        tensors = []
        for _ in range(n_tensors):
            name = text()
            n = struct.unpack_from("<I", content, at)[0]
            shape = list(struct.unpack_from(f"<{n}Q", content, at + 4))
            kind, offset = struct.unpack_from("<IQ", content, at + 4 + 8 * n)
            at += 16 + 8 * n
            tensors.append([name, shape, kind, offset])
        return Gguf(keys, tensors, content[-(-at // 32) * 32 :])

    def write(self) -> bytes:
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.keys))
        for key, kind, raw in self.keys:
            head += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + raw
        for name, shape, kind, offset in self.tensors:
            head += struct.pack("<Q", len(name)) + name
            head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *(side % 2**64 for side in shape), kind, offset % 2**64)
        return head + b"\0" * (-len(head) % 32) + self.data


def change_gguf(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    made = Gguf.read(content)
    how = chance.choice(("value", "value", "value", "value", "kind", "array", "drop", "tensor", "tensor", "tensor", "swap"))
    if how in ("value", "kind", "drop", "array"):
        arrays = [key for key in made.keys if key[1] == 9]
        entry = chance.choice(arrays if how == "array" else made.keys)
        key, kind, raw = entry
        name = key.decode(errors="replace")
        if how == "drop":
            made.keys.remove(entry)
            return made.write(), f"{name} left out"
        if how == "kind":
            entry[1] = chance.choice(list(FORMS))
            entry[2] = _scalar(entry[1], chance)
            return made.write(), f"{name} of type {entry[1]}"
        if kind == 9:
            inner, n = struct.unpack_from("<IQ", raw)
            shorter = chance.choice((0, 1, max(0, n - 1), n))
            if inner == 8:
                word = chance.choice((*TEXTS[:3], b"a"))
                item = struct.pack("<Q", len(word)) + word
            else:
                item = _scalar(inner, chance)
            entry[2] = struct.pack("<IQ", inner, shorter) + item * shorter
            return made.write(), f"{name}: {shorter} times the same"
        if kind == 8:
            word = chance.choice(TEXTS)
            entry[2] = struct.pack("<Q", len(word)) + word
            return made.write(), f"{name} = {word[:20]!r}"
        entry[2] = _scalar(kind, chance)
        return made.write(), f"{name} = {struct.unpack('<' + FORMS[kind], entry[2])[0]}"
    tensor = chance.choice(made.tensors)
    name = tensor[0].decode(errors="replace")
    if how == "swap":
        other = chance.choice(made.tensors)
        tensor[0], other[0] = other[0], tensor[0]
        return made.write(), f"{name} and {tensor[0].decode()} swapped"
    part = chance.choice(("shape", "type", "offset", "name", "drop", "turn"))
    if part == "shape":
        tensor[1][chance.randrange(len(tensor[1]))] = chance.choice((0, 1, 2, 32, 64, 255, 256, 512, 2**31, 2**63))
    elif part == "type":
        tensor[2] = chance.choice((0, 1, 2, 3, 6, 8, 10, 12, 14, 16, 20, 24, 26, 28, 30, 39, 99))
    elif part == "offset":
        tensor[3] = chance.choice((0, 32, 4096, 2**31, 2**63, tensor[3] + 32))
    elif part == "name":
        tensor[0] = chance.choice((b"", b"x", tensor[0] + b"x", b"blk.99.attn_q.weight", b"v.blk.99.ln1.weight"))
    elif part == "turn":
        tensor[1].reverse()
    else:
        made.tensors.remove(tensor)
    return made.write(), f"{name}: {part} {tensor[1]} {tensor[2]} {tensor[3]}"


def _scalar(kind: int, chance: random.Random) -> bytes:
    if kind in (6, 12):
        return struct.pack("<" + FORMS[kind], chance.choice(REAL))
    return (chance.choice(WHOLE) % 256 ** SIZES[kind]).to_bytes(SIZES[kind], "little")


def change_bytes(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    how = chance.choice(("some", "some", "cut", "double", "header"))
    if how == "cut":
        at = chance.randrange(len(content))
        return content[:at], f"cut at {at}"
    if how == "double":
        at = chance.randrange(len(content))
        return content[:at] + content[max(0, at - 1000) :], f"1000 bytes twice at {at}"
    made = bytearray(content)
    room = min(len(made), 4000) if how == "header" else len(made)
    places = [chance.randrange(room) for _ in range(chance.choice((1, 1, 3, 30)))]
    for at in places:
        made[at] = chance.randrange(256)
    return bytes(made), f"random bytes at {places[:3]}"


def change_json(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    made = json.loads(content)
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, path: str) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(items):
            places.append((value, key, f"{path}.{key}"))
            walk(inner, f"{path}.{key}")

    walk(made, "")
    holder, key, path = chance.choice(places)
    if chance.random() < 0.2:
        del holder[key]
        return json.dumps(made).encode(), f"{path} left out"
    old = holder[key]
    near = [old * 2, old * 1000, -old, old + 1, 0] if isinstance(old, int) and not isinstance(old, bool) else []
    holder[key] = chance.choice([*near, *VALUES])
    return json.dumps(made).encode(), f"{path} = {holder[key]!r}"[:80]


def cases(source: Path, seed: int, first: int, last: int) -> Iterator[tuple[int, str, str, bytes]]:
    """(number, file, what was changed, its bytes): each from its number and the seed alone."""
    files = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    names = [name for name in files if name.endswith(".gguf")] * 4 + [name for name in files if not name.endswith(".gguf")]
    for number in range(first, last):
        chance = random.Random(f"{seed}/{number}")
        name = chance.choice(sorted(names))
        change: Callable[[bytes, random.Random], tuple[bytes, str]] = change_bytes
        if name.endswith(".gguf") and chance.random() < 0.85:
            change = change_gguf
        elif name.endswith(".json") and chance.random() < 0.85:
            change = change_json
        content, said = change(files[name], chance)
        yield number, name, said, content


def resign(folder: Path) -> None:
    """Sizes, checksums and fingerprints that fit the files."""
    path = folder / manifests.MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        for file in manifest["files"].values():
            there = folder / file["path"]
            file["bytes"], file["sha256"] = there.stat().st_size, store.sha256(there)
        for role in manifests.ESTIMATORS:
            if manifest.get(role):
                manifest[role]["lm_sha256"] = manifest["files"]["lm"]["sha256"]
                manifest[role]["vision_sha256"] = manifest["files"][manifest["runtime"]["tower"]]["sha256"]
        path.write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass  # bundle.json itself was changed


def without_selectors(folder: Path) -> None:
    """Of a changed LM or tower a Selector would be refused before llama.cpp sees a byte."""
    path = folder / manifests.MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest |= {"operating_points": [], "cascades": [], "calibration": []} | dict.fromkeys(manifests.ESTIMATORS)
    for role in manifests.ESTIMATORS:
        manifest["files"].pop(role, None)
    path.write_text(json.dumps(manifest))


def ask(folder: Path) -> str:
    """What a user would see: "answered", "abstained", or the error's line; anything else is raised."""
    import numpy as np

    import edge_vqa

    try:
        with edge_vqa.load(folder) as model:
            answer = model.ask(np.full((32, 48, 3), 200, np.uint8), "what is this?")
            return "abstained" if answer.abstained else "answered"
    except edge_vqa.EdgeVqaError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return f"refused: {error.what}"


def peak() -> int:
    """Bytes of this process's largest size since the last `clear_refs`."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("VmHWM:")[1].split()[0])


def worker(source: Path, folder: Path, seed: int, first: int, last: int, told: multiprocessing.Queue[Any]) -> None:
    for number, name, said, content in cases(source, seed, first, last):
        told.put((number, name, said, None))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        if name.endswith(".gguf"):
            without_selectors(folder)
        (folder / name).write_bytes(content)
        if name != manifests.MANIFEST or number % 2:
            resign(folder)
        Path("/proc/self/clear_refs").write_text("5")
        before, began = peak(), time.perf_counter()
        try:
            outcome = ask(folder)
        except Exception as error:
            outcome = f"FAULT {type(error).__name__}: {error}"
        if peak() - before > MEMORY:
            outcome = f"FAULT {(peak() - before) / 1e6:.0f} MB more; {outcome}"
        told.put((number, name, said, (outcome, time.perf_counter() - began)))


def run(source: Path, work: Path, seed: int, n: int, shown: Callable[[int, str], None], workers: int = 2) -> list[str]:
    """Ask every case; returns a line for each fault."""
    faults: list[str] = []
    context = multiprocessing.get_context("spawn")
    spans = [[n * i // workers, n * (i + 1) // workers] for i in range(workers)]
    live: list[Any] = [None] * workers
    current: list[Any] = [None] * workers
    since = [time.monotonic()] * workers
    queues = [context.Queue() for _ in range(workers)]
    done = 0
    while True:
        for i, span in enumerate(spans):
            if live[i] is None and span[0] < span[1]:
                arguments = (source, work / f"case{i}", seed, span[0], span[1], queues[i])
                live[i], since[i] = context.Process(target=worker, args=arguments), time.monotonic()
                live[i].start()
            try:
                while True:
                    number, name, said, outcome = queues[i].get(timeout=0.05)
                    since[i] = time.monotonic()
                    if outcome is None:
                        current[i] = (number, name, said)
                        continue
                    current[i], span[0], done = None, number + 1, done + 1
                    if outcome[0].startswith("FAULT"):
                        faults.append(f"{number} {name}: {said}: {outcome[0]}")
                    shown(done, f"{number}\t{name}\t{said}\t{outcome[1]:.2f}\t{outcome[0]}")
            except queue.Empty:
                pass
            if live[i] is None:
                continue
            hangs = time.monotonic() - since[i] > SECONDS
            if hangs:
                live[i].kill()
            if hangs or not live[i].is_alive():
                live[i].join()
                if current[i] is not None:  # a death; what the queue still holds was read above
                    number, name, said = current[i]
                    faults.append(f"{number} {name}: {said}: {'hangs' if hangs else f'exit {live[i].exitcode}'}")
                    shown(done, faults[-1])
                    current[i], span[0], done = None, number + 1, done + 1
                live[i] = None
        if all(process is None for process in live) and all(first >= last for first, last in spans):
            return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Changed bundles never end a process.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", default="mini", help="the bundle whose files are changed")
    parser.add_argument("--log", type=Path, help="a line a case goes there")
    chosen = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        shutil.copytree(store.find(chosen.bundle), source)
        log = chosen.log.open("w") if chosen.log else None

        def shown(done: int, line: str) -> None:
            fields = line.split("\t")
            if len(fields) == 5:
                counts[fields[4].split(":")[0].split()[0]] += 1
                seconds.append(float(fields[3]))
            if log:
                log.write(line + "\n")
                log.flush()
            if done % 100 == 0:
                print(f"{done} of {chosen.cases}", flush=True)

        faults = run(source, Path(work), chosen.seed, chosen.cases, shown)
    print(f"{chosen.cases} changed files: {dict(counts)}; median {statistics.median(seconds):.2f} s, most {max(seconds):.1f} s")
    print(f"{len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
