"""Refuses checkpoints whose pickles could run somebody's code; the one gate before any pickle is read.

Training writes RLlib's own checkpoints, whose states are pickles, and resuming reads them. Everything else (playing,
exporting, serving) reads `policy.safetensors` or the exported files, which hold numbers alone.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import HASHES, STATE, hash_file
from runtime.errors import UserError

# RLlib reads a component's state from here; a `.msgpack` beside it would win, and its arrays may be pickles again.
_PICKLES = ".pkl"
_REFUSED = (".msgpack", ".msgpck")
_CONSTRUCTOR = "class_and_ctor_args.pkl"  # read by RLlib's `from_checkpoint`, not when a state is restored
# What states are made of: nothing here runs code that a file brings along.
_DATA = {
    ("builtins", "complex"),
    ("builtins", "frozenset"),
    ("builtins", "set"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _DataUnpickler(pickle.Unpickler):
    """Unpickles numbers, text, arrays and containers of them.

    Raises:
        UnpicklingError: The pickle names anything else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Called for each global that the pickle names."""
        module = module.replace("numpy.core.", "numpy._core.")  # as NumPy 1 named it
        if not is_data(module, name):
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def is_data(module: str, name: str) -> bool:
    """Whether a global that a pickle names is a type of numbers, arrays or containers."""
    return (module, name) in _DATA


def load_data(content: bytes) -> Any:
    """Unpickles numbers, text, arrays and containers of them.

    Raises:
        UnpicklingError: The pickle names anything else. A broken one raises other errors, too.
    """
    return _DataUnpickler(io.BytesIO(content)).load()


def check_checkpoint(checkpoint: Path, *, trust: bool, setting: str) -> None:
    """Lets a checkpoint through whose files are those that its job wrote, and whose pickles hold data alone.

    Hashes find files that were added or changed; the author of a whole checkpoint can list its hashes, so states are
    read here once by an unpickler that knows arrays and containers only.

    Args:
        checkpoint: Its folder.
        trust: Whether the user trusts its origin: nothing is checked then.
        setting: Name of the setting that says so, for messages.

    Raises:
        UserError: It is not let through; every file at fault is named.
    """
    if trust:
        return
    listed = _listed_hashes(checkpoint)
    lines = [] if listed else [f"{STATE}: lists no hashes, as in checkpoints of before they were written"]
    for path in sorted(checkpoint.rglob("*")) if listed else ():
        name = str(path.relative_to(checkpoint))
        if (why := _refusal_reason(path, listed.get(name))) is not None:
            lines.append(f"{name}: {why}")
    if lines:
        raise UserError(
            f"{checkpoint}: got a checkpoint that was changed or could run its author's code; expected the files that "
            "its job wrote, with data alone. Restore from another one, start without, or, if you trust where this one "
            f"is from, set {setting}=true.\n  " + "\n  ".join(lines)
        )


def _refusal_reason(path: Path, listed: str | None) -> str | None:
    """Returns why a file is refused, or None. Files that RLlib never reads, as SageMaker's markers, may be unlisted."""
    if path.is_symlink():  # of a folder, whose files would be read unseen
        return "a link, which this program does not write"
    if path.suffix in _REFUSED:
        return "a state in msgpack, which this program does not write"
    if listed is None:
        return f"not listed in {STATE}" if path.suffix == _PICKLES else None
    if listed != hash_file(path):
        return f"not the file that {STATE} lists: its SHA-256 is another"
    if path.suffix != _PICKLES or path.name == _CONSTRUCTOR:
        return None
    try:
        with path.open("rb") as file:
            _DataUnpickler(file).load()
    except Exception as error:  # a broken pickle raises anything
        return f"{type(error).__name__}: {error}"
    return None


def _listed_hashes(checkpoint: Path) -> dict[str, str]:
    try:
        listed = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get(HASHES, {})
    except (OSError, ValueError, AttributeError):
        return {}
    return listed if isinstance(listed, dict) else {}
