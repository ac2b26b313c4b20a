"""Bundles that come as packages: built and installed as docs/publishing.md says, and those that lie."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_vqa.bundles import store
from tests.conftest import EXAMPLES, PROGRAMS, ROOT, edit_manifest

PYPROJECT = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "publishing.md").read_text(), re.DOTALL)
ASK = (PROGRAMS / "edge-vqa", "ask", EXAMPLES / "price.png", "how much is it?")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel was installed, built of the pyproject.toml in the docs."""
    work = tmp_path_factory.mktemp("package")
    assert PYPROJECT is not None
    shutil.copytree(store.EMBEDDED / "mini", work / "my-bundle" / "my_bundle")
    (work / "my-bundle" / "my_bundle" / "__init__.py").write_text("raise SystemExit('imported')")
    (work / "my-bundle" / "pyproject.toml").write_text(PYPROJECT[1])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", work, work / "my-bundle"], check=True)
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", work / "site", wheel], check=True)
    return work / "site"


def offer(folder: Path, name: str, package: str, distribution: str = "stranger") -> Path:
    """What pip leaves of a package that offers a bundle: metadata only."""
    told = folder / f"{distribution.replace('-', '_')}-2.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
    (told / "entry_points.txt").write_text(f"[edge_vqa.bundles]\n{name} = {package}\n")
    return folder


def run(site: Path, *command: object, home: Path, model: str = "mini") -> subprocess.CompletedProcess[str]:
    """model: what $EDGE_VQA_MODEL chooses; empty: nothing."""
    settings = os.environ | {"PYTHONPATH": str(site), "EDGE_VQA_HOME": str(home), store.CHOSEN: model}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=settings, check=False)


def test_an_installed_package_is_known_by_name(site: Path, tmp_path: Path) -> None:
    listed = run(site, PROGRAMS / "edge-vqa", "models", "list", "--json", home=tmp_path)
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows["shelves"]["from"] == "my-bundle 1.0" and rows["mini"]["from"] == "edge-vqa"
    assert "intact" in run(site, PROGRAMS / "edge-vqa", "models", "verify", "shelves", home=tmp_path).stdout
    asked = run(site, *ASK, "--model", "shelves", home=tmp_path)
    assert (asked.returncode, asked.stdout) == (0, "$4.50\n"), asked.stderr
    assert list((tmp_path / "trials").glob("bundle-*")), "it was tried in a child first"


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("nowhere_to_be_found", "there is no package"),
        ("struct", "there is no package"),
        ("email", "holds no bundle.json"),
        ("my_bundle.inner", "is not a package"),
        ("../x", "is not a package"),
    ],
)
def test_an_entry_point_that_lies_is_one_line(package: str, said: str, tmp_path: Path) -> None:
    folder = offer(tmp_path / "site", "liar", package)
    asked = run(folder, *ASK, "--model", "liar", home=tmp_path)
    assert asked.returncode == 1 and said in asked.stderr and "stranger 2.0" in asked.stderr
    assert asked.stderr.count("\n") == 1, asked.stderr
    assert said in run(folder, PROGRAMS / "edge-vqa", "models", "list", home=tmp_path).stdout
    assert run(folder, *ASK, home=tmp_path).stdout == "$4.50\n", "others go on"


def test_two_packages_of_one_name_are_told_and_neither_is_taken(site: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(site, both)
    offer(both, "shelves", "my_bundle")
    asked = run(both, *ASK, "--model", "shelves", home=tmp_path)
    assert asked.returncode == 1 and "several packages" in asked.stderr
    assert "my-bundle 1.0" in asked.stderr and "stranger 2.0" in asked.stderr


def test_a_package_takes_no_name_of_ours(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    offer(copy, "mini", "my_bundle", "impostor")
    (copy / "my_bundle" / "lm.gguf").write_bytes(b"")
    assert run(copy, *ASK, "--model", "mini", home=tmp_path).stdout == "$4.50\n"


def base(folder: Path) -> Path:
    """A package of the base model, which the embedded one stands in for."""
    offer(folder, "base", "edge_vqa_base", "edge-vqa-base")
    shutil.copytree(store.EMBEDDED / "mini", folder / "edge_vqa_base")
    (folder / "edge_vqa_base" / "__init__.py").touch()  # goes before the real one, where that is installed
    edit_manifest(folder / "edge_vqa_base", lambda manifest: manifest.update(name="base"))
    return folder


def test_the_base_model_is_taken_where_it_is_installed(tmp_path: Path) -> None:
    site = base(tmp_path / "site")
    for model, taken in (("", "base"), ("mini", "mini"), (str(store.EMBEDDED / "mini"), "mini")):
        asked = run(site, *ASK, "--json", home=tmp_path, model=model)
        assert json.loads(asked.stdout)["model"] == taken, "what the environment chooses goes first"
    assert "no bundle 'nothing'" in run(site, *ASK, home=tmp_path, model="nothing").stderr


@pytest.mark.parametrize("damage", ["older", "cut", "without an entry point"])
def test_a_base_model_that_cannot_be_used_leaves_the_embedded_one_and_says_so_once(damage: str, tmp_path: Path) -> None:
    folder = base(tmp_path / "site")
    if damage == "older":
        edit_manifest(folder / "edge_vqa_base", lambda manifest: manifest.update(schema=0))
    elif damage == "cut":
        (folder / "edge_vqa_base" / "lm.gguf").write_bytes(b"GGUF")
    else:
        (folder / "edge_vqa_base-2.0.dist-info" / "entry_points.txt").unlink()
    asked = run(folder, *ASK, home=tmp_path, model="")
    assert asked.returncode == 0 and asked.stdout == "$4.50\n"
    assert asked.stderr.count("the base model cannot be used") == 1, asked.stderr
