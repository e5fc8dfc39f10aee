"""Writes docs/licences.md: every package of the CPU image, its version and its licence, as it says itself.

Run: .venv/bin/python images/licences.py, in an environment that `make install` made.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LOCK = _ROOT / "images" / "cpu.txt"
_LONGEST = 60
_HEAD = """# Licences of what the image ships

Written by `python images/licences.py` from what each package says of itself; smrl's own is Apache-2.0 (LICENSE).
Debian's packages and Python have theirs in the image, below `/usr/share/doc`.

Reports contain uPlot (MIT, Copyright (c) 2022 Leon Sorokin), which the package youplot brings, with its licence.

The wheels of av bundle FFmpeg with x264 and x265, which are under the GPL 2 or later.

| package | version | licence |
|---|---|---|
"""


def licence_of(name: str) -> str:
    """A package's licence: its SPDX expression, else its classifiers, else the first line of its field.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    found = metadata.metadata(name)
    if expression := found.get("License-Expression"):
        return expression
    classifiers = [
        text.split(" :: ")[-1] for text in found.get_all("Classifier") or () if text.startswith("License ::")
    ]
    if names := [text for text in classifiers if text != "OSI Approved"]:
        return ", ".join(names)
    line = (found.get("License") or "").strip().splitlines()[:1]
    return line[0] if line and len(line[0]) <= _LONGEST and line[0] != "UNKNOWN" else "see its files"


def page() -> str:
    """The page."""
    rows = []
    for line in _LOCK.read_text().splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            rows.append(f"| {match[1]} | {match[2]} | {licence_of(match[1])} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (_ROOT / "docs" / "licences.md").write_text(page())
