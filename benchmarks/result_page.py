"""Rewrites single sections of a page of results, so that a benchmark can measure its parts one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def write_sections(page: Path, head: str, order: Iterable[str], measured: Mapping[str, str]) -> None:
    """Writes a page with the measured sections; all others keep their text.

    Args:
        page: Markdown file, which need not exist.
        head: Text above the first section.
        order: Titles of all sections, in their order on the page.
        measured: Text of each section that was measured, by its title.
    """
    sections = {}
    if page.exists():
        for part in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, body = part.partition("\n")
            sections[title] = body.strip()
    sections |= measured
    body = "".join(f"\n## {title}\n\n{sections[title].strip()}\n" for title in order if title in sections)
    page.write_text(f"{head.strip()}\n{body}", encoding="utf-8")
