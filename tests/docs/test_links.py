"""Every link within the documents, and every path that they name, exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],  # noqa: S607 - git is in PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if (ROOT / name).exists()
)
# A path of the repository begins with one of these; `.venv` and other folders that are made are not among them.
_TOP = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, _TOP))})/[\w./-]*|[\w-]+\.md")


def prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", prose(document))


def named_paths(document: Path) -> Iterator[str]:
    """Yield the paths of the repository that stand in backticks; a function may follow after a colon."""
    for span in re.findall(r"`([^`]+)`", prose(document)):
        path = span.partition(": ")[0]
        if _PATH.fullmatch(path):
            yield path


def short(document: Path) -> str:
    return str(document.relative_to(ROOT))


def test_documents_are_found() -> None:
    names = {short(document) for document in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/operations.md"} <= names
    assert len(list(named_paths(ROOT / "docs" / "architecture.md"))) > 50


@pytest.mark.parametrize("document", DOCUMENTS, ids=short)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{short(document)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{short(document)} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=short)
def test_paths_in_backticks_exist(document: Path) -> None:
    missing = [
        path for path in named_paths(document) if not ((ROOT / path).exists() or (document.parent / path).exists())
    ]
    assert not missing, f"{short(document)} names paths that do not exist"
