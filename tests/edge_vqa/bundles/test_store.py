"""bundle.json is read strictly; what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from tests.conftest import edit_manifest


def test_the_embedded_bundle_is_found_by_default_by_name_and_by_path(mini: Bundle) -> None:
    assert store.find() == store.find("mini") == mini.folder
    assert store.find(mini.folder) == mini.folder


def test_the_embedded_bundle_is_small_and_intact(mini: Bundle) -> None:
    store.verify(mini, thorough=True)
    assert mini.bytes <= 10_000_000, f"{mini.bytes} bytes"
    assert mini.manifest.files["selector"].bytes <= 1_000_000


def test_a_bundle_in_the_home_folder_is_known_by_name(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_VQA_HOME", str(copied.parent))
    assert store.find("copied") == copied
    with pytest.raises(EdgeVqaError, match=r"no bundle 'smol': .*copied.*mini|no bundle 'smol': .*mini.*copied"):
        store.find("smol")


def test_a_manifest_survives_being_written_and_read(mini: Bundle) -> None:
    assert manifests.parse(manifests.render(mini.manifest)) == mini.manifest


Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(colour="red"), "unknown key colour"),
        (lambda m: m["prompt"].update(colour="red"), "unknown key prompt.colour"),
        (lambda m: m["files"]["lm"].update(colour="red"), "unknown key files.lm.colour"),
        (lambda m: m.pop("licence"), "missing key licence"),
        (lambda m: m["prompt"].pop("after"), "missing key prompt.after"),
        (lambda m: m.update(schema=99), "schema 99 is not 1"),
        (lambda m: m.update(name=3), "name must be a str"),
        (lambda m: m["prompt"].update(max_tokens=True), "prompt.max_tokens must be a int"),
        (lambda m: m["prompt"].update(max_tokens=0), "prompt.max_tokens must lie"),
        (lambda m: m["prompt"].update(question="what"), "must hold {question} once"),
        (lambda m: m["prompt"].update(detail="huge"), "prompt.detail must be"),
        (lambda m: m["files"].pop("vision"), "files.vision is missing"),
        (lambda m: m["files"].pop("selector"), "must stand together"),
        (lambda m: m["files"].update(extra=m["files"]["lm"]), "files.extra is none of"),
        (lambda m: m["files"]["lm"].update(path="../lm.gguf"), "plain file name"),
        (lambda m: m["operating_points"][0].update(threshold=7.0), "threshold must lie in 0..1"),
        (lambda m: m["operating_points"][0].update(risk=float("nan")), "risk must be a float"),
        (lambda m: [p.update(default=False) for p in m["operating_points"]], "exactly one of selector must be the default"),
        (lambda m: m["runtime"]["preprocessing"].update(tile=0), "runtime.preprocessing needs"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(change: Change, words: str, copied: Path) -> None:
    edit_manifest(copied, change)
    with pytest.raises(EdgeVqaError) as caught:
        store.read(copied)
    assert words in caught.value.what


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema": 1}', "\x00"])
def test_what_is_no_manifest_is_refused(text: str, copied: Path) -> None:
    (copied / manifests.MANIFEST).write_text(text)
    with pytest.raises(EdgeVqaError, match=r"bundle\.json is not usable"):
        store.read(copied)


def test_missing_short_and_changed_files_are_refused(copied: Path) -> None:
    lm = copied / "lm.gguf"
    data = bytearray(lm.read_bytes())
    data[len(data) // 2] ^= 1
    lm.write_bytes(data)
    with pytest.raises(EdgeVqaError, match="does not match its checksum"):
        store.verify(store.read(copied))
    lm.write_bytes(data[:-1])
    with pytest.raises(EdgeVqaError, match="bytes instead of"):
        store.read(copied)
    lm.unlink()
    with pytest.raises(EdgeVqaError, match="is missing"):
        store.read(copied)


def test_a_large_bundle_is_hashed_once_and_again_when_it_changes(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "ALWAYS_VERIFIED_BYTES", 0)
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    hashed: list[Path] = []
    real = store.sha256
    monkeypatch.setattr(store, "sha256", lambda path: hashed.append(path) or real(path))
    found = store.read(copied)
    store.verify(found)
    assert len(hashed) == len(found.files)
    store.verify(found)
    assert len(hashed) == len(found.files), "hashed again although nothing changed"
    lm = copied / "lm.gguf"
    data = bytearray(lm.read_bytes())
    data[-1] ^= 1
    lm.write_bytes(data)
    with pytest.raises(EdgeVqaError, match="does not match its checksum"):
        store.verify(found)


def test_the_shipped_manifest_has_no_key_that_the_code_does_not_know(mini: Bundle) -> None:
    stored = json.loads((mini.folder / manifests.MANIFEST).read_text())
    assert stored == json.loads(manifests.render(mini.manifest))
