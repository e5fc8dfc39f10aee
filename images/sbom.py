"""Writes a bill of materials (CycloneDX 1.5) of an image's Python packages: version, hash of the wheel, licence.

The image has its own at /opt/smrl/sbom.cdx.json. Run: python images/sbom.py cpu|gpu [FILE], with the packages installed
where licences are wanted.
"""

from __future__ import annotations

import configparser
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_LOCKED = re.compile(r"^([\w.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", re.M)


def bill_of_materials(kind: str) -> dict[str, Any]:
    """The document for an image.

    Args:
        kind: `cpu` or `gpu`.
    """
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg", encoding="utf-8")
    name, version = setup["metadata"]["name"], setup["metadata"]["version"]
    licence = setup["metadata"]["license"]
    locked = _LOCKED.findall((_ROOT / "images" / f"{kind}.txt").read_text(encoding="utf-8"))
    image = {
        "type": "container",
        "bom-ref": "smrl",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": licence}}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": image},
        "components": [_component(*words) for words in locked],
    }


def _component(name: str, version: str, sha256: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }
    try:
        expression = metadata.metadata(name).get("License-Expression")
    except metadata.PackageNotFoundError:  # written outside the image
        expression = None
    return {**component, "licenses": [{"expression": expression}]} if expression else component


def main() -> None:
    """Writes the document to a file, or prints it."""
    kind, *file = sys.argv[1:]
    text = json.dumps(bill_of_materials(kind), indent=1) + "\n"
    if file:
        Path(file[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
