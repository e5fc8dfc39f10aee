"""Writes images/cpu.txt and images/gpu.txt: every package of an image at the version of constraints.txt, with its hash.

Run: .venv/bin/python images/lock.py cpu|gpu, with pip set up so that torch is the build that the image is to have: of
its CPU wheels for `cpu`, of the package index alone for `gpu`. Both are for Linux on x86-64 and Python 3.11.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_HEAD = "# Written by images/lock.py {kind}; torch is {torch}.\n"


def lock(kind: str) -> str:
    """The lines of a lock file.

    Raises:
        SystemExit: torch is not the build that this kind of image has.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--constraint", "constraints.txt", "."], cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    lines = []
    torch = ""
    for found in json.loads(done.stdout)["install"]:
        name, version = found["metadata"]["name"], found["metadata"]["version"]
        if name == "smrl":
            continue
        if name == "torch":
            torch = version
        sha256 = found["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    if torch.endswith("+cpu") != (kind == "cpu"):
        sys.exit(f"images/lock.py {kind}: pip would install torch {torch}; see this file's first lines")
    return _HEAD.format(kind=kind, torch=torch) + "\n".join(sorted(lines, key=str.lower)) + "\n"


if __name__ == "__main__":
    for kind in sys.argv[1:]:
        (Path(__file__).parent / f"{kind}.txt").write_text(lock(kind))
