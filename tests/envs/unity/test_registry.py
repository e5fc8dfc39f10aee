"""Scenes by name, from a real server: downloads that are verified, resumed, shared and refused; and bad settings."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from envs.unity.options import read_options
from envs.unity.registry import Registry
from tests.unity_stand_in import build_player


class Store:
    """Files behind HTTP, with ranges, checksums and accidents.

    Attributes:
        files: By path.
        requests: Path and Range header of each request.
        cut_at: Bytes after which the next archive breaks off.
        md5: What is said of each file; its own MD5 if None.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut_at: int | None = None
        self.md5: str | None = None
        self.lock = threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        with self.lock:
            self.requests.append((request.path, asked))
            cut = None
            if request.path.endswith(".zip"):
                cut = self.cut_at
                self.cut_at = None
        whole = self.files.get(request.path)
        if whole is None:
            request.send_error(404)
            return
        tag = f'"{hashlib.md5(whole).hexdigest()}"'
        begin = 0
        if asked and request.headers.get("If-Range") == tag:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        if begin >= len(whole) > 0:
            request.send_error(416)
            return
        request.send_response(206 if begin else 200)
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(whole) - begin))
        md5 = self.md5 or base64.b64encode(hashlib.md5(whole).digest()).decode()
        request.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={md5}")
        request.end_headers()
        request.wfile.write(whole[begin:] if cut is None else whole[begin : begin + cut])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A server with a manifest, and a zip of the stand-in's Basic."""
    found = Store()
    path = build_player(tmp_path / "build", "Basic", executable=False)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "Basic/Basic.x86_64")
        archive.writestr("__MACOSX/Basic/._Basic.x86_64", b"a resource fork")
        archive.writestr("Basic/Basic_Data/level0", bytes(os.urandom(150_000).hex(), "ascii"))
    found.files["/basic.zip"] = data.getvalue()
    found.files["/manifest.yaml"] = (
        "environments:\n"
        f"  - Basic:\n      expected_reward: 0.93\n      linux_url: {found.url}/basic.zip\n"
        "      additional_args: [--quality, 2]\n"
        f"  - 3DBall:\n      linux_url: {found.url}/lost.zip\n"
        "  - MacOnly:\n      darwin_url: https://example.com/mac.zip\n"
    ).encode()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> Registry:
    """Ours, with a cache of its own."""
    return Registry(f"{store.url}/manifest.yaml", tmp_path / "cache")


def test_a_scene_is_downloaded_once_and_may_be_run(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        options = read_options(
            env_name="Basic", registry_url=f"{store.url}/manifest.yaml", cache_folder=tmp_path, additional_args=["-x"]
        )
        assert os.access(options.executable, os.X_OK)
        assert (options.executable.parent / "Basic_Data" / "level0").stat().st_size == 300_000
        assert options.arguments == ("--quality", "2", "-x")
    assert [path for path, _ in store.requests].count("/basic.zip") == 1


def test_an_interrupted_download_resumes(store: Store, registry: Registry) -> None:
    store.cut_at = 100_000
    assert registry.fetch("Basic").executable.is_file()
    assert [asked for path, asked in store.requests if path == "/basic.zip"] == [None, "bytes=100000-"]


def test_a_file_that_changed_meanwhile_is_downloaded_whole(store: Store, registry: Registry, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    scene_url = f"{store.url}/basic.zip"
    name = f"Basic-{hashlib.sha256(scene_url.encode()).hexdigest()[:12]}"
    (cache / f"{name}.part").write_bytes(b"of an older build")
    (cache / f"{name}.part.tag").write_text('"another"')
    assert registry.fetch("Basic").executable.is_file()


def test_eight_processes_download_once(store: Store, tmp_path: Path) -> None:
    registries = [Registry(f"{store.url}/manifest.yaml", tmp_path / "cache") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        scenes = list(pool.map(lambda one: one.fetch("Basic"), registries))
    assert len({scene.executable for scene in scenes}) == 1
    assert [path for path, _ in store.requests].count("/basic.zip") == 1


def test_a_scene_that_is_here_needs_no_network(store: Store, registry: Registry) -> None:
    first = registry.fetch("Basic")
    store.server.shutdown()
    store.server.server_close()
    assert registry.fetch("Basic") == first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("md5", "its MD5 is not the one that the server announced"),
        ("truncated", "it is no zip archive"),
        ("bit", r"Basic/Basic_Data/level0 in it is damaged|its archive cannot be read: Error -3 .*"),
        ("sha256", "its SHA-256 is not the manifest's"),
    ],
)
def test_a_damaged_download_is_refused_and_dropped(
    store: Store, registry: Registry, tmp_path: Path, damage: str, message: str
) -> None:
    whole = store.files["/basic.zip"]
    if damage == "md5":
        store.md5 = "AAAAAAAAAAAAAAAAAAAAAA=="
    elif damage == "truncated":
        store.files["/basic.zip"] = whole[:-50_000]
    elif damage == "bit":
        store.files["/basic.zip"] = whole[:150_000] + bytes([whole[150_000] ^ 1]) + whole[150_001:]
    else:
        manifest = store.files["/manifest.yaml"].replace(
            b"basic.zip\n", b"basic.zip\n      linux_sha256: " + b"ab" * 32 + b"\n"
        )
        store.files["/manifest.yaml"] = manifest
    with pytest.raises(
        ValueError, match=rf"got a download of {store.url}/basic\.zip that cannot be used: ({message})\. Try"
    ):
        registry.fetch("Basic")
    assert not list((tmp_path / "cache").glob("*.part"))
    if damage in ("truncated", "bit"):
        store.files["/basic.zip"] = whole
        assert registry.fetch("Basic").executable.is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("basic", r"got 'basic'; expected a scene of .*: 3DBall, Basic, MacOnly\. Did you mean 'Basic'\?"),
        ("3DBal", r"Did you mean '3DBall'\?"),
        ("MacOnly", r"MacOnly has no Linux build in .*; mount the executable as the train channel"),
        ("3DBall", r"3DBall cannot be downloaded: HTTP 404 .*lost\.zip; mount the executable as the train channel"),
    ],
)
def test_a_scene_that_cannot_be_had_is_refused_with_what_to_do(registry: Registry, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.fetch(name)


def test_without_a_network_the_user_is_told_to_mount_the_executable(tmp_path: Path) -> None:
    registry = Registry("http://127.0.0.1:9/manifest.yaml", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"Basic cannot be downloaded: .*:9/manifest\.yaml: .*refused; mount the executable as the train",
    ):
        registry.fetch("Basic")


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("scenes: []")
    with pytest.raises(
        ValueError, match=r"registry_url: got '.*manifest\.yaml', which is no manifest; expected YAML with"
    ):
        Registry(str(tmp_path / "manifest.yaml"), tmp_path).fetch("Basic")


def test_an_archive_cannot_write_outside_of_its_folder(store: Store, registry: Registry, tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../escaped.x86_64", "#!/bin/sh\n")
    store.files["/basic.zip"] = data.getvalue()
    registry.fetch("Basic")
    assert not list(tmp_path.glob("escaped*"))


def test_an_archive_without_a_player_is_not_kept(store: Store, registry: Registry) -> None:
    whole = store.files["/basic.zip"]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("README", "nothing to run")
    store.files["/basic.zip"] = data.getvalue()
    with pytest.raises(ValueError, match=r"got nothing to run in the archive of Basic; expected one \.x86_64 file"):
        registry.fetch("Basic")
    store.files["/basic.zip"] = whole
    assert registry.fetch("Basic").executable.is_file()


def test_a_login_page_in_the_manifests_place_does_not_replace_it(store: Store, registry: Registry) -> None:
    first = registry.fetch("Basic")
    store.files["/manifest.yaml"] = b"<html>Please log in.</html>"
    assert registry.fetch("Basic") == first
    store.server.shutdown()
    store.server.server_close()
    assert registry.fetch("Basic") == first


def test_another_checksum_is_another_download(store: Store, registry: Registry) -> None:
    registry.fetch("Basic")
    whole = store.files["/manifest.yaml"]
    store.files["/manifest.yaml"] = whole.replace(
        b"basic.zip\n", b"basic.zip\n      linux_sha256: " + b"ab" * 32 + b"\n"
    )
    with pytest.raises(ValueError, match=r"its SHA-256 is not the manifest's"):
        registry.fetch("Basic")


def test_nothing_is_downloaded_for_settings_that_are_wrong(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timescale: got a setting"):
        read_options(env_name="Basic", registry_url=f"{store.url}/manifest.yaml", cache_folder=tmp_path, timescale=3)
    assert store.requests == []


@pytest.mark.parametrize("line", ["additional_args: abc", "linux_url: 3", "linux_sha256: 3", "linux_url: basic.zip"])
def test_a_manifests_entry_of_the_wrong_kind_is_refused(store: Store, registry: Registry, line: str) -> None:
    store.files["/manifest.yaml"] = (
        f"environments:\n  - Odd:\n      linux_url: {store.url}/basic.zip\n      {line}\n".encode()
    )
    with pytest.raises(ValueError, match=r"registry_url: got (additional_args|linux_url) .* of Odd"):
        registry.fetch("Odd")


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # all lines are checked below
        read_options(
            file_name=tmp_path / "Basic.x86_64",
            time_scale=0,
            timeout_s="long",
            base_port=80,
            seed=-1,
            no_graphics="yes",
            observations="list",
            num_agents=0,
            behavior_name=3,
            additional_args="-x",
            environment_parameters={"mass": "heavy"},  # type: ignore[dict-item]  # a mistake of the user's
            timescale=3,
        )
    assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()) == sorted(
        [
            *("timescale", "time_scale", "timeout_s", "base_port", "seed", "no_graphics", "observations", "num_agents"),
            *("behavior_name", "additional_args", "environment_parameters", "file_name"),
        ]
    )


def _elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_elf(40), "got a build for 32-bit ARM; expected a Linux build for"),
        (b"MZ" + bytes(100), "got a build for Windows"),
        (b"\xcf\xfa\xed\xfe" + bytes(100), "got a build for macOS"),
        (b"PK\x03\x04", "got a file that is no program"),
        (b"", "got a file that is no program"),
    ],
)
def test_what_cannot_run_here_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "Scene.x86_64"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_options(file_name=path)


def test_a_file_is_found_with_or_without_its_suffix_and_made_executable(tmp_path: Path) -> None:
    path = build_player(tmp_path, "Basic", executable=False)
    for given in (path, path.with_suffix("")):
        assert read_options(file_name=given).executable == path
        assert read_options(env_name=str(given)).executable == path
    assert os.access(path, os.X_OK)


def test_a_missing_file_is_told_with_what_is_there(tmp_path: Path) -> None:
    build_player(tmp_path, "Basic")
    with pytest.raises(
        ValueError, match=rf"file_name: got '{tmp_path}/Hopper'; expected a Linux .* holds Basic\.x86_64\."
    ):
        read_options(file_name=tmp_path / "Hopper")
    with pytest.raises(ValueError, match=r"That is a folder; it holds Basic\.x86_64\."):
        read_options(file_name=tmp_path)
    with pytest.raises(ValueError, match=r"There is no folder /nowhere either"):
        read_options(file_name="/nowhere/Basic.x86_64")


def test_the_channels_executable_is_found_by_name_or_because_it_is_alone(tmp_path: Path) -> None:
    path = build_player(tmp_path / "linux", "Basic", name="basic_env_linux.x86_64", executable=False)
    for name in ("basic_env_linux.x86_64", "basic_env_linux", "linux/basic_env_linux.x86_64", None):
        assert read_options(env_name=name, folder=tmp_path).executable == path
    assert read_options(env_name="Basic", folder=tmp_path).executable == path  # as the preset names the registry's
    message = r"env_name: got 'Basic\.x86' and .*; expected one file Basic\.x86 in it\. It holds linux/basic_env_linux"
    with pytest.raises(ValueError, match=message):
        read_options(env_name="Basic.x86", folder=tmp_path)
    build_player(tmp_path, "Two")
    with pytest.raises(
        ValueError, match=r"expected one \.x86_64 file in it\. It holds Two\.x86_64, linux/basic_env_linux"
    ):
        read_options(folder=tmp_path)


def test_a_download_leaves_nothing_beside_the_scene(registry: Registry, tmp_path: Path) -> None:
    registry.fetch("Basic")
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["Basic", "Basic", "manifest"]  # the scene, its lock, the manifest
