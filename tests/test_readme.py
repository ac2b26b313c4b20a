"""The README shows what the commands really print, and its links lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.readme import README, ROOT, examples, execute, same

EXAMPLES = examples(README.read_text())


def test_there_is_something_to_run() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize(("command", "expected"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_every_command_prints_what_the_readme_shows(command: str, expected: str) -> None:
    actual = execute(command)
    assert same(expected, actual), f"{command}\n--- README\n{expected}\n--- now\n{actual}"


def test_links_lead_to_files() -> None:
    documents = [README, *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "recipes").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_comparison_tolerates_rounding_only() -> None:
    assert same("confidence 0.93, at least 0.71", "confidence 0.92, at least 0.72")
    assert not same("confidence 0.93", "confidence 0.53")
    assert not same("cat", "dog")
