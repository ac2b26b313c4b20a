"""What a server costs and bears: overhead a question, throughput under load, memory, clients that go away, bad requests.

    python -m benchmarks.serving overhead [--model mini]
    python -m benchmarks.serving load [--model mini] [--repeat 3]
    python -m benchmarks.serving peer --llama-cpp BIN --keep FOLDER
    python -m benchmarks.serving memory [--requests 10000]
    python -m benchmarks.serving gone
    python -m benchmarks.serving malformed [--requests 5000]      (needs schemathesis)

Server and clients share the machine's cores, as they would on a device; clients are one asyncio process that sends requests
made before. `load`: 64 clients, 2,000 questions on 50 pictures, against `ask_many` on the same questions; both alternate.
`peer`: 64 clients, 60 questions on 15 pictures of five tiles, SmolVLM-256M's shape, against llama-server (see `peers`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import easy_vqa

from benchmarks import peers
from benchmarks.speed import TOKENS, prepare
from edge_vqa.bundles import store
from edge_vqa.device.profile import default_threads
from edge_vqa.model import load as load_model

Asked = tuple[Path, str]


def questions(n: int, pictures: int) -> list[Asked]:
    """easy-VQA's test questions about so many pictures, in random order, with repetitions where there are too few."""
    root = Path(easy_vqa.__file__).parent / "data" / "test"
    rng = random.Random(11)
    listed = [
        (root / "images" / f"{image}.png", question) for question, _, image in json.loads((root / "questions.json").read_text())
    ]
    images = rng.sample(sorted({path for path, _ in listed}), pictures)
    chosen = [one for one in listed if one[0] in set(images)]
    rng.shuffle(chosen)
    return [chosen[number % len(chosen)] for number in range(n)]


@contextmanager
def serving(model: str, *more: str) -> Iterator[tuple[str, int, int, list[str]]]:
    """A server: host, port, process id, and the lines of its log."""
    command = [str(Path(sys.executable).with_name("edge-vqa")), "serve", "--port", "0", "--model", model, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"answers at (http://\S+)", line):
                break
        else:
            sys.exit("".join(lines))
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        address = urlsplit(found[1])
        yield str(address.hostname), int(address.port or 0), process.pid, lines
    finally:
        process.terminate()
        assert process.wait(60) == 0


def request(path: Path, question: str, **more: Any) -> bytes:
    """A whole HTTP request."""
    url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}]} | more
    raw = json.dumps(body).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {len(raw)}", "", ""]
    return "\r\n".join(lines).encode() + raw


async def ask_all(host: str, port: int, requests: Sequence[bytes], clients: int) -> tuple[float, Counter[int], list[float]]:
    """Seconds for all requests by so many clients at once, statuses, and seconds of each."""
    left = iter(requests)
    statuses: Counter[int] = Counter()
    spent: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for content in left:
            while True:
                began = time.perf_counter()
                writer.write(content)
                head = await reader.readuntil(b"\r\n\r\n")
                status, length = int(head[9:12]), int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
                await reader.readexactly(length)
                statuses[status] += 1
                if status != 429:
                    spent.append(time.perf_counter() - began)
                    break
                await asyncio.sleep(1)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began, statuses, spent


def overhead(arguments: argparse.Namespace) -> None:
    asked = questions(300, 1)
    with serving(arguments.model) as (host, port, _, _), load_model(arguments.model) as model:
        differences, here, there = [], [], []
        for path, question in asked:
            data = path.read_bytes()
            began = time.perf_counter()
            model.ask(data, question)
            here.append(time.perf_counter() - began)
            _, _, (spent,) = asyncio.run(ask_all(host, port, [request(path, question)], 1))
            there.append(spent)
            differences.append(spent - here[-1])
    ms = [1000 * statistics.median(values) for values in (here, there, differences)]
    print(f"a further question on a picture, median of {len(asked)}: {ms[0]:.2f} ms in Python, {ms[1]:.2f} ms over HTTP,"
          f" overhead {ms[2]:.2f} ms")  # fmt: skip


def load(arguments: argparse.Namespace) -> None:
    asked = questions(2000, 50)
    requests = [request(path, question) for path, question in asked]
    ratios = []
    for _ in range(arguments.repeat):
        with load_model(arguments.model, sequences=None) as model:
            began = time.perf_counter()
            for answer in model.ask_many([(path.read_bytes(), question) for path, question in asked]):
                assert not isinstance(answer, Exception)
            alone = len(asked) / (time.perf_counter() - began)
        with serving(arguments.model) as (host, port, _, lines):
            seconds, statuses, spent = asyncio.run(ask_all(host, port, requests, 64))
            assert not [line for line in lines if "Traceback" in line]
        ratios.append(len(asked) / seconds / alone)
        late, served = statistics.quantiles(spent, n=100), len(asked) / seconds
        print(f"ask_many {alone:.1f} questions a second, server {served:.1f} ({ratios[-1]:.2f})", end="; ")
        print(f"latency {late[49]:.3f} s, 99th percentile {late[98]:.3f} s; statuses {dict(statuses)}", flush=True)
    print(f"ratio, median of {len(ratios)}: {statistics.median(ratios):.3f}")


def peer(arguments: argparse.Namespace) -> None:
    bundle = store.read(prepare(arguments.keep, "smolvlm-256m"))
    drawn = peers.pictures(arguments.keep, 15, (512, 512))
    asked = [(path, f"is it number {number}?") for number in range(4) for path in drawn]
    random.Random(7).shuffle(asked)
    requests = [request(*one, max_tokens=TOKENS, temperature=0, detail="high", gate=False) for one in asked]
    threads = default_threads(bundle.manifest.files["lm"].bytes).decode
    with peers.server(arguments.llama_cpp, bundle, threads) as address:
        theirs = urlsplit(address)
        seconds, statuses, _ = asyncio.run(ask_all(str(theirs.hostname), int(theirs.port or 0), requests, 64))
    print(f"llama-server: {len(asked) / seconds:.3f} questions a second; statuses {dict(statuses)}", flush=True)
    for backend in ("onnx", "mtmd"):
        with serving(str(bundle.folder), "--vision", backend, "--timeout", "3600") as (host, port, _, _):
            ours, statuses, _ = asyncio.run(ask_all(host, port, requests, 64))
        print(
            f"edge-vqa, {backend}: {len(asked) / ours:.3f} ({seconds / ours:.2f} times); statuses {dict(statuses)}", flush=True
        )


def resident(pid: int) -> float:
    """MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def memory(arguments: argparse.Namespace) -> None:
    steps = 10
    requests = [request(path, question) for path, question in questions(arguments.requests // steps, 50)]
    with serving(arguments.model) as (host, port, pid, _):
        asyncio.run(ask_all(host, port, requests[:500], 16))
        sizes = [resident(pid)]
        for _ in range(steps):
            _, statuses, _ = asyncio.run(ask_all(host, port, requests, 16))
            assert set(statuses) <= {200, 429}, statuses
            sizes.append(resident(pid))
            print(f"{sizes[-1]:.1f} MB", flush=True)
    print(f"{arguments.requests:,} requests: {sizes[0]:.1f} -> {sizes[-1]:.1f} MB")


def gone(arguments: argparse.Namespace) -> None:
    rng, requests = random.Random(3), [request(*one) for one in questions(50, 50)]
    with serving(arguments.model) as (host, port, pid, lines):

        def state() -> str:
            files, threads = (len(list(Path(f"/proc/{pid}/{name}").iterdir())) for name in ("fd", "task"))
            return f"{resident(pid):.1f} MB, {files} open files, {threads} threads"

        asyncio.run(ask_all(host, port, requests * 10, 16))
        print(f"before: {state()}", flush=True)
        for number in range(1, 101):
            clients = []
            for content in requests:
                connection = socket.create_connection((host, port))
                connection.sendall(content[: rng.choice([len(content), rng.randrange(1, len(content))])])
                clients.append(connection)
            rng.shuffle(clients)
            for connection in clients:
                time.sleep(rng.expovariate(1000))
                connection.close()
            if number % 20 == 0:
                time.sleep(3)
                _, statuses, _ = asyncio.run(ask_all(host, port, requests, 16))
                assert set(statuses) == {200} and not [line for line in lines if "Traceback" in line]
                print(f"50 clients that went away at random moments, {number} times: {state()}", flush=True)


def raw(host: str, port: int, content: bytes, *, wait: float = 20) -> int:
    """Send bytes, and where the server waits for more, end; the status that came, 0 where the connection was closed without
    one. Raises TimeoutError for a hang."""
    with socket.create_connection((host, port), timeout=0.2) as connection:
        try:
            connection.sendall(content)
            try:
                head = connection.recv(64)
            except TimeoutError:
                connection.settimeout(wait)
                connection.shutdown(socket.SHUT_WR)
                head = connection.recv(64)
        except (ConnectionError, BrokenPipeError):
            return 0
        return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A request with some bytes changed, cut, doubled, or out of place."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        at = rng.randrange(len(data))
        what = rng.randrange(6)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            del data[at : at + rng.choice([1, 10, 1000])]
        elif what == 2:
            data[at:at] = data[at : at + rng.choice([1, 10, 1000])]
        elif what == 3:
            data[at:at] = rng.choice(
                [b"\0", b"\xff\xfe", b"\r\n\r\n", b'"', b"{", b"[" * 1000, b"1e999", b"-1", b"null", b"\\ud800"]
            )
        elif what == 4:
            data[:] = data[:at]
        else:
            data[:] = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % rng.choice([0, 1, 10**6, 10**20]), bytes(data))
        data = data or bytearray(b"\r\n")
    return bytes(data)


def forms(rng: random.Random, picture: bytes) -> bytes:
    """A form, and where it goes."""
    boundary = b"edge"
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="question"\r\n\r\nwhat is this?\r\n',
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + picture + b"\r\n",
        b'--edge\r\nContent-Disposition: form-data; name="risk"\r\n\r\n'
        + rng.choice([b"0.05", b"nan", b"-1", b"x", b"9" * 999])
        + b"\r\n",
    ]
    body = b"".join(rng.sample(parts, rng.randrange(1, 4))) + b"--edge--\r\n"
    head = (
        b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=%b\r\nContent-Length: %d\r\n\r\n"
    )
    return head % (boundary, len(body)) + body


def malformed(arguments: argparse.Namespace) -> None:
    rng, counts = random.Random(5), Counter[str]()
    path, question = questions(1, 1)[0]
    with serving(arguments.model) as (host, port, _, lines):
        sound = [request(path, question)]
        for number in range(arguments.requests // 2):
            content = mutated(rng, sound[0] if number % 2 else forms(rng, path.read_bytes()))
            try:
                counts[str(raw(host, port, content))] += 1
            except TimeoutError:
                counts["hang"] += 1
        print(f"by hand, by status: {dict(sorted(counts.items()))}", flush=True)
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://{host}:{port}/openapi.json",
            "--no-color",
        ]
        command += ["--max-examples", str(arguments.requests // 12), "--checks", "not_a_server_error", "--seed", "5"]
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
        print("\n".join(done.stdout.splitlines()[-25:]))
        served = [json.loads(line) for line in lines if line.startswith("{")]
        wrong = [line for line in served if line["status"] >= 500 or "error" in line]
        tracebacks = sum("Traceback" in line for line in lines)
        print(f"{len(served):,} served: {len(wrong)} with status 5xx, {tracebacks} tracebacks, {counts['hang']} hangs")
        for line in wrong[:5]:
            print(line)
        assert raw(host, port, sound[0]) == 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "load", "peer", "memory", "gone", "malformed"])
    parser.add_argument("--llama-cpp", type=Path, metavar="BIN")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--requests", type=int, default=None)
    arguments = parser.parse_args()
    arguments.requests = arguments.requests or (10_000 if arguments.what == "memory" else 5_000)
    globals()[arguments.what](arguments)


if __name__ == "__main__":
    main()
