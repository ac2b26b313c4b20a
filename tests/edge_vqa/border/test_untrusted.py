"""What users, downloads and models hand in: endless files, byte order marks, control characters, hostile templates, wrong
types, closed outputs. Each ends in one line, and loses nothing.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_vqa.border.untrusted import read_bytes, read_text
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store, template
from edge_vqa.bundles.store import Bundle
from edge_vqa.bundles.template import Vocabulary
from edge_vqa.cli import terminal
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model, load
from edge_vqa.visible import as_json, visible
from edge_vqa.work.questions import read
from tests.conftest import CHECKPOINT, EXAMPLES, PROGRAMS, ROOT, Run, edit_manifest, one_line

PRICE = EXAMPLES / "price.png"
MARK = b"\xef\xbb\xbf"
RED = "\x1b[31mred\x07\x9b1m\u202e"

# -- files without end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("edge-vqa", "ask", "/dev/zero", "what is this?"),
        ("edge-vqa", "chat", "/dev/zero"),
        ("edge-vqa", "batch", "/dev/zero", "-o", "answers.jsonl"),
        ("edge-vqa", "eval", "/dev/zero", "-o", "report"),
        ("edge-vqa", "bench", "--compare", "/dev/zero", "/dev/zero"),
        ("edge-vqa-convert", CHECKPOINT, "-o", "bundle", "--chat-template", "/dev/zero"),
        ("edge-vqa-convert", "compare", "mini", "mini", "--data", "/dev/zero"),
        ("edge-vqa-selector", "fit", "mini", "--data", "/dev/zero", "-o", "fitted"),
        ("edge-vqa-selector", "study", "/dev/zero", "-o", "study"),
    ],
)
def test_a_file_without_end_is_read_up_to_a_limit(command: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    line = one_line(run(*command, cwd=tmp_path, preexec_fn=_at_most(4 * 10**9)))
    assert re.search(r"has more than \d+ MB", line), line
    assert not list(tmp_path.glob("*.jsonl"))


def _at_most(size: int) -> Callable[[], None]:
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def test_an_answers_file_that_is_a_device_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"question_id": "1", "image": str(PRICE), "question": "what is this?"}))
    assert "/dev/zero is not a file" in one_line(run("edge-vqa", "batch", tmp_path / "q.jsonl", "-o", "/dev/zero"))


def test_questions_without_end_are_one_line(run: Run) -> None:
    with Path("/dev/zero").open("rb") as endless:
        assert "has no end" in one_line(run("edge-vqa", "chat", PRICE, stdin=endless))


def test_process_substitution_goes_on_working(tmp_path: Path) -> None:
    asked = json.dumps({"question_id": "1", "image": str(PRICE), "question": "how much is it?"})
    for command in (
        f'{PROGRAMS}/edge-vqa ask <(cat {PRICE}) "how much is it?"',
        f"{PROGRAMS}/edge-vqa batch <(echo '{asked}') -o answers.jsonl && cat answers.jsonl",
    ):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert "$4.50" in done.stdout, done


# -- byte order marks ------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_taken_by_every_reader(tmp_path: Path, copied: Path, run: Run) -> None:
    line = json.dumps({"question_id": "1", "image": "a.png", "question": "é?"}, ensure_ascii=False).encode()
    (tmp_path / "q.jsonl").write_bytes(MARK + line + b"\r\n")
    assert read(tmp_path / "q.jsonl")[0].question == "é?"
    manifest = copied / manifests.MANIFEST
    manifest.write_bytes(MARK + manifest.read_bytes())
    assert store.read(copied).name == "mini"
    (tmp_path / "t.jinja").write_bytes(MARK + b"hello")
    assert template.read(tmp_path / "t.jinja") == "hello"
    said = run("edge-vqa", "chat", PRICE, "--json", input="\ufeffhow much is it?\n")
    assert json.loads(said.stdout)["answer"] == "$4.50"


def test_every_text_that_is_read_is_read_in_one_place() -> None:
    """`untrusted` limits the size and takes the mark; what else calls read_text reads what the project or the system wrote."""
    own = {
        *("bundles/store.py", "native/trial.py", "vision/cache.py", "trust/watch.py", "selector_onnx/collect.py"),
        *("device/tuning.py", "device/profile.py", "device/sensors.py", "device/admission.py"),
    }
    for package in ("edge_vqa", "converters", "selector_onnx"):
        for path in (ROOT / package).rglob("*.py"):
            if "/".join(path.parts[-2:]) not in own:
                assert ".read_text(" not in path.read_text().replace("untrusted.read_text(", ""), path


def test_a_limit_is_exact(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert len(read_bytes(tmp_path / "a", 100)) == 100
    with pytest.raises(ValueError, match="more than"):
        read_text(tmp_path / "a", 99)


# -- control characters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "a/b", "", ".", "..", ".hidden", "\x1b[31m", "a\nb", "x" * 101])
def test_a_name_that_is_no_name_is_refused(name: str, copied: Path, run: Run) -> None:
    edit_manifest(copied, lambda manifest: manifest.update(name=name))
    line = one_line(run("edge-vqa", "ask", PRICE, "what is this?", "--model", copied, "--watch"))
    assert "cannot be a name" in line and "\x1b" not in line
    assert not manifests.is_name(name)


def test_control_characters_of_a_bundle_are_shown_and_not_sent(tmp_path: Path, copied: Path, run: Run) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest |= {"description": RED, "licence": RED, "version": RED, "architecture": RED}
        manifest["source"] |= {"checkpoint": RED, "revision": RED}
        manifest["measured"] = [{"metric": RED, "value": 1.0, "data": RED, "n": 1, "date": RED}]

    edit_manifest(copied, change)
    home = {"EDGE_VQA_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    (tmp_path / "home").mkdir()
    copied.rename(tmp_path / "home/red")
    for command in (("list",), ("list", "--json"), ("show", "red"), ("show", "red", "--json"), ("verify", "red")):
        said = run("edge-vqa", "models", *command, env=home)
        assert said.returncode == 0 and said.stdout and not set(said.stdout + said.stderr) & set("\x1b\x07\x9b\u202e"), said
    assert "\\x1b[31mred" in run("edge-vqa", "models", "show", "red", env=home).stdout
    assert json.loads(run("edge-vqa", "models", "show", "red", "--json", env=home).stdout)["licence"] == RED


def test_control_characters_of_names_and_answers_are_shown(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    line = one_line(run("edge-vqa", "ask", tmp_path / f"{RED}.png", "what is this?"))
    assert "\\x1b[31mred" in line and not set(line) & set("\x1b\x07\x9b\u202e")
    (tmp_path / "no text").mkdir()
    odd = bytes(tmp_path / "no text") + b"/\xff.png"
    done = subprocess.run([PROGRAMS / "edge-vqa", "ask", odd, "what is this?"], capture_output=True, text=True, check=False)
    assert "does not exist" in one_line(done)
    terminal.say(f"two\nlines {RED}", lines=True)
    terminal.say(f"one\nline {RED}")
    terminal.print_json({"a": RED})
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["two", "lines \\x1b[31mred\\x07\\x9b1m\\u202e", "one\\x0aline \\x1b[31mred\\x07\\x9b1m\\u202e"]
    assert json.loads(shown[3]) == {"a": RED} and "\x9b" not in shown[3]
    console = terminal.console(force_terminal=True)
    console.print(f"[bold]{RED}[/bold]")
    said = capsys.readouterr().out
    assert "[bold]\\x1b[31mred" in said and "\x07" not in said and "\x9b" not in said
    assert visible("plain, é, 日本") == "plain, é, 日本" and json.loads(as_json(RED)) == RED


def test_commands_print_through_the_terminal() -> None:
    """A plain print of a command is of fixed text, or of JSON whose control characters are escaped."""
    for path in [*(ROOT / "edge_vqa").glob("cli*.py"), ROOT / "converters/cli.py", ROOT / "selector_onnx/cli.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                said = ast.unparse(node.args[0]) if node.args else ""
                assert said in ("text", "") or "as_json" in said or "render(" in said or "__version__" in said, (path, said)


# -- chat templates ----------------------------------------------------------------------------------------------------

HOSTILE = {
    "hangs": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "doubles": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "repeats": "{{ 'a' * 10**10 }}",
    "pads": "{{ '%999999999d' % 1 }}",
    "writes": "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "divides": "{{ 1 / 0 }}",
    "overflows": "{{ 2.0 ** 99999 }}",
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nests": "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
    "lists": "{{ range(10**12) | list }}",
    "names": "{{ nothing.at.all }}",
    "value": "{{ 'x' | int(base=99) }}",
    "key": "{{ messages[99]['content'] }}",
    "includes": "{% include '/etc/passwd' %}",
    "escapes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "syntax": "{% if %}",
    "no text": "{{ messages | map(attribute=1) | list }}{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_chat_template_is_one_error_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(template, "SECONDS", 3.0)
    words = Vocabulary(["a"], [1], {}, HOSTILE[name], False, "")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(EdgeVqaError, match="chat template does not") as raised:
        template.render(words, "<image>", instruction="", max_tokens=12, detail="low")
    assert time.monotonic() - began < 5 and "internal" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB, of this process
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4_000_000


# -- standard streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", ['ask examples/price.png "how much is it?"', "models list", "--version", "--help", "doctor"]
)
@pytest.mark.parametrize(
    ("to", "said"), [(">&-", "standard output is closed"), ("> /dev/full", "standard output cannot be written (No space left")]
)
def test_an_output_that_takes_nothing_is_one_line(arguments: str, to: str, said: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{PROGRAMS}/edge-vqa {arguments} {to}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert said in one_line(done), done


def test_closed_input_and_errors_do_not_matter() -> None:
    command = f'{PROGRAMS}/edge-vqa ask examples/price.png "how much is it?" <&- 2>&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "$4.50\n", "")


# -- types and addresses ------------------------------------------------------------------------------------------------


def test_a_wrong_type_is_a_type_error_that_names_the_argument(model: Model) -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("question", lambda: model.ask(PRICE, None)),  # type: ignore[arg-type]
        ("question", lambda: model.ask(PRICE, b"what?")),  # type: ignore[arg-type]
        ("image", lambda: model.ask(None, "what?")),  # type: ignore[arg-type]
        ("image", lambda: model.ask(3, "what?")),  # type: ignore[arg-type]
        ("image", lambda: model.open([1, 2])),  # type: ignore[arg-type]
        ("risk", lambda: model.ask(PRICE, "what?", risk="5%")),  # type: ignore[arg-type]
        ("threshold", lambda: model.ask(PRICE, "what?", threshold=[])),  # type: ignore[arg-type]
        ("max_tokens", lambda: model.ask(PRICE, "what?", max_tokens=1.5)),  # type: ignore[arg-type]
        ("detail", lambda: model.ask(PRICE, "what?", detail=1)),  # type: ignore[arg-type]
        ("asked", lambda: model.ask_many(None)),  # type: ignore[arg-type]
        ("question", lambda: list(model.ask_many([(PRICE, None)]))),  # type: ignore[list-item]
        ("name", lambda: load(3)),  # type: ignore[arg-type]
        ("threads", lambda: load(threads="2")),  # type: ignore[arg-type]
        ("context", lambda: load(context="many")),  # type: ignore[arg-type]
        ("vision", lambda: load(vision=1)),  # type: ignore[arg-type]
        ("cache_dir", lambda: load(cache_dir=5)),  # type: ignore[arg-type]
    ]
    for argument, call in calls:
        with pytest.raises(TypeError, match=f"^{argument} must be "):
            call()
    assert model.ask(PRICE, "how much is it?").text == "$4.50"


def test_an_address_says_what_to_do_and_a_data_uri_is_read(run: Run, tmp_path: Path, model: Model) -> None:
    for address in ("http://example.org/a.jpg", "https://example.org/a.jpg"):
        line = one_line(run("edge-vqa", "ask", address, "what is this?"))
        assert f"{address} is an address, not a file: download it first" in line
    uri = "data:image/png;base64," + base64.b64encode(PRICE.read_bytes()).decode()
    assert run("edge-vqa", "ask", uri, "how much is it?").stdout == "$4.50\n"
    assert model.ask(uri, "how much is it?").text == "$4.50"
    assert "damaged" in one_line(run("edge-vqa", "ask", "data:image/png;base64,@@", "what is this?"))
    (tmp_path / "q.jsonl").write_text(json.dumps({"question_id": "1", "image": "https://e.org/a.jpg", "question": "what?"}))
    assert "download it" in one_line(run("edge-vqa", "batch", tmp_path / "q.jsonl", "-o", tmp_path / "a.jsonl"))


def test_no_bundle_may_be_called_what_a_path_is(mini: Bundle, tmp_path: Path, run: Run) -> None:
    line = one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "b", "--name", "../x"))
    assert "cannot be a name" in line and not (tmp_path / "b").exists()


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------------

COMMANDS = [
    ("edge-vqa", "ask", PRICE, "how much is it?"),
    ("edge-vqa", "models", "list"),
    ("edge-vqa", "--help"),
    ("edge-vqa-convert", "--help"),
    ("edge-vqa-selector", "--help"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_at_once_is_silent(command: tuple[object, ...]) -> None:
    """From the first line of ours on. Before it Python itself starts, whose own handler shows a traceback; earlier still
    nothing handles the signal, and it ends the process as it ends any (-SIGINT, which a shell calls 130)."""
    ours = 0
    for wait in range(30, 130, 10):
        process = subprocess.Popen(
            [PROGRAMS / str(command[0]), *map(str, command[1:])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(wait / 1000)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        if "KeyboardInterrupt" in err and "edge_vqa/" not in err:  # on a busy machine it takes longer to start
            continue
        assert "Traceback" not in err, (wait, err)
        assert process.returncode in (0, 130, -signal.SIGINT), (wait, process.returncode, err)
        ours += process.returncode in (0, 130)
    assert ours, "no signal came late enough to be ours"
