"""What a build of the package adds to setuptools: the start-up hook, the examples, and links that lead somewhere.

setup.cfg names both commands as `cmdclass`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

_ROOT = Path(__file__).resolve().parent
_HOOK = "smrl-scripts-of-2020.pth"
_EXAMPLES = "examples"
_PACKAGED_EXAMPLES = Path("runtime", "packaged_examples")  # where `smrl examples` finds them
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


class BuildPy(build_py):  # type: ignore[misc]  # setuptools ships no types
    """Adds the hook, in whichever site-packages the wheel is installed to, and the examples."""

    def run(self) -> None:
        """Copies the modules, then what is no module."""
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib)
        shutil.copy(_ROOT / _HOOK, built)
        if (_ROOT / _EXAMPLES).is_dir():
            hidden = shutil.ignore_patterns("__pycache__", ".*", "results")
            shutil.copytree(_ROOT / _EXAMPLES, built / _PACKAGED_EXAMPLES, ignore=hidden, dirs_exist_ok=True)


class EggInfo(egg_info):  # type: ignore[misc]  # likewise
    """Makes the README's links absolute in the package's description."""

    def finalize_options(self) -> None:
        """Reads the description and the address of the repository."""
        super().finalize_options()
        metadata = self.distribution.metadata
        metadata.long_description = absolute_links(metadata.long_description or "", metadata.url or "")


def absolute_links(text: str, repository: str) -> str:
    """Rewrites a page's relative links and pictures, for readers outside the repository.

    Args:
        text: Markdown.
        repository: Address of the repository, as GitHub and GitLab write it; if empty, a picture is left out, and a
            link becomes its text: nothing else is right for readers everywhere.
    """
    if not repository:
        return _LINK.sub(lambda link: "" if link[1] else link[2], text)
    return _LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/HEAD/{link[3]})", text
    )
