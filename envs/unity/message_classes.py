"""Protobuf message classes of mlagents-envs 0.28.0, built for a protobuf newer than its generated code.

Protobuf 4 and later refuse to import those modules. Each of them holds its serialized file descriptor as a literal,
from which protobuf builds the same classes. `agent_messages` decodes and encodes them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import builder

VERSION = "0.28.0"
_PACKAGE = "mlagents_envs.communicator_objects"
_PREFIX = f"{_PACKAGE}."
_SUFFIX = "_pb2"
# What is read or written for each agent and step. A packed list of floats, or of booleans, is the same bytes on the
# wire as a field of bytes, which numpy takes whole instead of number by number.
_AS_BYTES = {
    "ObservationProto.FloatData": ("data",),
    "AgentInfoProto": ("action_mask",),
    "AgentActionProto": ("vector_actions_deprecated", "continuous_actions"),
}


class MessageFinder:
    """Import hook that finds the generated modules and ignores every other name."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds the module of a generated message file; called by the import system."""
        if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)):
            return None
        file = _folder() / f"{name.removeprefix(_PREFIX)}.py"
        return (
            importlib.util.spec_from_file_location(name, file, loader=_MessageLoader(file)) if file.is_file() else None
        )


def allow_messages() -> None:
    """Makes `mlagents_envs` importable; a second call changes nothing.

    Raises:
        ImportError: Another version of mlagents-envs is installed, or none.
    """
    if MessageFinder in sys.meta_path:
        return
    try:
        version = metadata.version("mlagents-envs")
    except metadata.PackageNotFoundError:
        version = "none"
    if version != VERSION:
        raise ImportError(
            f"mlagents-envs: got version {version}; expected {VERSION}, the one whose messages today's protobuf is "
            f"taught to read here. Install it: pip install mlagents-envs=={VERSION}"
        )
    sys.meta_path.insert(0, MessageFinder)


def message_modules() -> list[str]:
    """Returns the names of all generated modules, sorted."""
    return sorted(_PREFIX + path.stem for path in _folder().glob(f"*{_SUFFIX}.py"))


@cache
def wire_class(name: str) -> type[Any]:
    """Returns a message class whose packed lists of numbers are bytes fields: the same on the wire, faster to read.

    Args:
        name: Name of the message, as `UnityMessageProto`.
    """
    found: type[Any] = message_factory.GetMessageClass(
        _wire_pool().FindMessageTypeByName(f"communicator_objects.{name}")
    )
    return found


@cache
def _wire_pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    files = {}
    for path in _folder().glob(f"*{_SUFFIX}.py"):
        file = descriptor_pb2.FileDescriptorProto.FromString(_read_descriptor(path))
        files[file.name] = file
    added: set[str] = set()

    def add(file: Any) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for needed in file.dependency:
            if needed in files:
                add(files[needed])
            else:  # Google's own, as any.proto
                module = importlib.import_module(needed.removesuffix(".proto").replace("/", ".") + _SUFFIX)
                pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        for message in file.message_type:
            _make_bytes(message, message.name)
        pool.AddSerializedFile(file.SerializeToString())

    for file in files.values():
        add(file)
    return pool


def _make_bytes(message: Any, name: str) -> None:
    for field in message.field:
        if field.name in _AS_BYTES.get(name, ()):
            field.type = field.TYPE_BYTES
            field.label = field.LABEL_OPTIONAL
    for nested in message.nested_type:
        _make_bytes(nested, f"{name}.{nested.name}")


class _MessageLoader(Loader):
    def __init__(self, file: Path) -> None:
        self._file = file

    def exec_module(self, module: ModuleType) -> None:
        """Builds the module's classes and enums from its descriptor."""
        serialized = _read_descriptor(self._file)
        for needed in descriptor_pb2.FileDescriptorProto.FromString(serialized).dependency:
            importlib.import_module(needed.removesuffix(".proto").replace("/", ".") + _SUFFIX)
        descriptor = descriptor_pool.Default().AddSerializedFile(serialized)
        names = vars(module)
        names["DESCRIPTOR"] = descriptor
        builder.BuildMessageAndEnumDescriptors(descriptor, names)
        builder.BuildTopDescriptorsAndMessages(descriptor, module.__name__, names)


def _folder() -> Path:
    spec = importlib.util.find_spec("mlagents_envs")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"mlagents-envs: not installed; expected version {VERSION}.")
    return Path(spec.submodule_search_locations[0]) / "communicator_objects"


def _read_descriptor(file: Path) -> bytes:
    """Reads the descriptor that a generated module holds as `serialized_pb=_b('…')`, without running the module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb" and isinstance(node.value, ast.Call):
            literal = node.value.args[0]
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                return literal.value.encode("latin1")
    raise ImportError(f"{file}: got a module without a serialized descriptor; expected one of mlagents-envs {VERSION}.")
