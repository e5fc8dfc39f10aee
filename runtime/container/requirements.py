"""Removes from a user's requirements.txt what the container already provides, before pip reads it.

gym-unity alone asks for gym 0.20, which does not build on today's Python. A line that is taken out stays in the file as
a comment.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# Whose modules are stand-ins or patched for a script, and SageMaker's toolkit, which is running; sagemaker-containers
# is its name of 2019.
SERVED = frozenset(
    {"gym", "gym-unity", "mlagents-envs", "ray", "roboschool", "sagemaker-containers", "sagemaker-training"}
)
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTIONS = re.compile(r"\s+--?[a-z].*$", re.DOTALL)  # of a single requirement, as --hash=sha256:…
_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]*(\S.*)$", re.DOTALL)
_EDITABLE = re.compile(r"^(?:-e|--editable)[\s=]+")
_EGG = re.compile(r"[#&]egg=([\w.-]+)")


def leave_out_served(requirements: Path) -> list[str]:
    """Turns the lines of what the container brings into comments, in a file and in those that it includes.

    Args:
        requirements: A requirements.txt; files that it includes from outside its folder are left as they are.

    Returns:
        The requirements that were taken out, as they were written.
    """
    taken: list[str] = []
    waiting = [requirements]
    seen = set[Path]()
    root = requirements.parent.resolve()
    while waiting:
        file = waiting.pop(0).resolve()
        if file in seen or not file.is_file() or not file.is_relative_to(root):
            continue
        seen.add(file)
        text, encoding = _read(file)
        kept, served, included = _comment_out(text)
        if served:
            file.write_bytes(kept.encode(encoding, "surrogateescape"))
        taken += served
        waiting += [file.parent / name for name in included]
    return taken


def _comment_out(text: str) -> tuple[str, list[str], list[str]]:
    """Comments out the requirements that the container provides; returns the text, those, and the included files."""
    kept: list[str] = []
    served: list[str] = []
    included: list[str] = []
    for lines in _logical_lines(text):
        entry = _entry_of(lines)
        include = _INCLUDE.match(entry)
        is_served = _name_of(entry) in SERVED
        kept += [f"# {line}" for line in lines] if is_served else lines
        if is_served:
            served.append(_OPTIONS.sub("", entry))
        elif include is not None:
            included.append(include[1].strip("\"' "))
    return "".join(kept), served, included


def _read(file: Path) -> tuple[str, str]:
    """Reads a file and its encoding from its byte order mark, as pip does: PowerShell writes UTF-16."""
    content = file.read_bytes()
    encoding = "utf-8"
    if content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    return content.decode(encoding, "surrogateescape"), encoding


def _logical_lines(text: str) -> Iterator[list[str]]:
    """Groups lines into entries, line ends included; a backslash continues a line unless it is in a comment."""
    entry: list[str] = []
    for line in text.splitlines(keepends=True):
        entry.append(line)
        if not line.rstrip("\r\n").endswith("\\") or line.lstrip().startswith("#"):
            yield entry
            entry = []
    if entry:
        yield entry


def _entry_of(lines: list[str]) -> str:
    """Joins an entry's lines into one, without its comment."""
    whole = "".join(line.rstrip("\r\n").removesuffix("\\") for line in lines)
    return _COMMENT.sub("", whole).strip()


def _name_of(entry: str) -> str | None:
    """Returns an entry's normalized package name; None for an option, and for a path or URL without a name."""
    entry = _EDITABLE.sub("", entry)
    egg = _EGG.search(entry)
    if egg is not None and "://" in entry:
        return canonicalize_name(egg[1])
    try:
        return canonicalize_name(Requirement(_OPTIONS.sub("", entry)).name)
    except InvalidRequirement:
        return None
