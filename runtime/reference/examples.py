"""The examples that ship with smrl, and the command that copies them."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has them inside the package; a checkout beside it.
_PLACES = (_PACKAGE / "packaged_examples", _PACKAGE.parent / "examples")
_HIDDEN = ("__pycache__", "results")


def example_files() -> dict[Path, Path]:
    """Returns the path of each example by its path below the folder of examples, sorted.

    Raises:
        UserError: This installation was made without examples.
    """
    place = next((place for place in _PLACES if (place / "my_module.py").is_file()), None)
    if place is None:
        raise UserError(
            f"examples: got no folder of examples at {' or '.join(map(str, _PLACES))}; expected one. "
            "Install smrl from its wheel or a checkout."
        )
    files = sorted(path for path in place.rglob("*") if path.is_file())
    named = {path.relative_to(place): path for path in files}
    return {name: path for name, path in named.items() if not any(_is_hidden(part) for part in name.parts)}


def _is_hidden(part: str) -> bool:
    return part in _HIDDEN or part.startswith(".")


def copy_examples(folder: Path) -> list[Path]:
    """Copies the examples into a folder and returns the paths of the copies.

    Args:
        folder: Created if absent.

    Raises:
        UserError: A file of the same name is there, and differs; then nothing is copied.
    """
    files = example_files()
    own = [
        str(folder / name)
        for name, path in files.items()
        if (folder / name).exists() and (folder / name).read_bytes() != path.read_bytes()
    ]
    if own:
        raise UserError(
            f"{folder}: got {', '.join(own)}, which an example would replace; expected a folder without them. "
            "Name another folder: smrl examples FOLDER."
        )
    for name, path in files.items():
        if not (folder / name).exists():  # what is there is the same, or the very file
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    return [folder / name for name in files]
