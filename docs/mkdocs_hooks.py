"""Adds to the site the files outside docs/ that its pages link to, so that no link of the site is dead, and landmarks.

A file keeps its path in the repository: benchmarks/RESULTS.md becomes a page, examples/my_module.py a file to open.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parent.parent
_DOCS = "docs/"
_LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to, and what those pages link to in turn."""
    unread = [file.src_uri for file in files.documentation_pages()]
    unread += re.findall(r"[\w/.-]+\.md\b", str(config.nav))
    while unread:
        page = unread.pop()
        if files.get_file_from_path(page) is None:
            files.append(_outside(page, config))
        for link in _LINK.findall((_ROOT / _path_of(page)).read_text()):
            target = _target_of(link, page)
            if files.get_file_from_path(target) is not None or not (_ROOT / target).is_file():
                continue
            files.append(_outside(target, config))
            if target.endswith(".md"):
                unread.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Rewrites a page's links to those files, from their places in the repository to their places in the site."""
    own = page.file.src_uri

    def move(link: re.Match[str]) -> str:
        target = _target_of(link[1], own)
        return posixpath.relpath(target, posixpath.dirname(own)) if files.get_file_from_path(target) else link[1]

    return _LINK.sub(move, markdown)


def on_post_page(output: str, page: Page, config: Any) -> str:
    """Gives the theme's footers landmarks for screen readers, and the keyboard's focus to what scrolls."""
    whole = output.replace('<div role="contentinfo">', "<div>").replace("<footer>", '<footer role="contentinfo">')
    whole = whole.replace('class="rst-versions" role="note"', 'class="rst-versions" role="navigation"')
    return re.sub(r"(<pre>(?:<span></span>)?<code|<table(?=>))", r'\1 tabindex="0"', whole)


def _outside(place: str, config: Any) -> File:
    return File.generated(config, place, abs_src_path=str(_ROOT / place))


def _path_of(place: str) -> str:
    """Returns where a file of the site lies in the repository."""
    return _DOCS + place if (_ROOT / _DOCS / place).is_file() else place


def _target_of(link: str, page: str) -> str:
    """Returns the place in the site of what a page links to, relative to its own path in the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_path_of(page)), link))
    return path.removeprefix(_DOCS)
