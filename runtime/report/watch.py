"""`smrl watch`: the report of a job that still runs, redrawn as the job writes."""

from __future__ import annotations

import http.server
import threading
import urllib.parse
from http import HTTPStatus
from pathlib import Path

from runtime.container.layout import Layout
from runtime.errors import PlatformError, UserError
from runtime.report.page import render_report
from runtime.report.results import read_results

PORT = 8081
_EVERY_S = 3
_PART = 1 << 20
# Swaps the page's body when there is a newer one; videos keep playing until one of them changes.
_SCRIPT = """<script>
let seen = document.body.dataset.version;
setInterval(async () => {
  try {
    const reply = await fetch('?since=' + encodeURIComponent(seen));
    if (reply.status !== 200) return;
    const page = new DOMParser().parseFromString(await reply.text(), 'text/html');
    seen = page.body.dataset.version;
    const videos = [...document.querySelectorAll('video')].map(v => v.getAttribute('src')).join();
    const fresh = [...page.querySelectorAll('video')].map(v => v.getAttribute('src')).join();
    if (videos && videos === fresh)
      page.querySelector('.videos').replaceWith(document.querySelector('.videos'));
    const top = window.scrollY;
    document.querySelector('main').replaceWith(page.querySelector('main'));
    smrlCharts.draw();
    window.scrollTo(0, top);
  } catch (error) { /* the server has ended; the last page stays */ }
}, EVERY);
</script>""".replace("EVERY", str(1000 * _EVERY_S))
# Files that the page is made from; a newer one makes a newer page.
_PARTS = (
    *("metrics.jsonl", "config.json", "run.json", "tuning.jsonl", "ope.json", "*.png", "model/manifest.json"),
    *("videos/*.mp4", "evaluation/evaluation.json", "evaluation/*.mp4", "evaluation/mp4/**/*.mp4"),
    *("deepracer/**/*-iteration.csv", "evaluation/**/*-iteration.csv"),
)


class Watcher(http.server.ThreadingHTTPServer):
    """Serves the report of a results folder.

    Args:
        folder: The results folder; it may still be empty.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        UserError: There is no such folder.
        PlatformError: The port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int = PORT) -> None:
        if not folder.is_dir():
            raise UserError(f"watch: got {str(folder)!r}; expected a results folder, as smrl train makes one.")
        self.folder = folder.resolve()
        self.lock = threading.Lock()
        self.cached = ("", "")
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise PlatformError(
                f"port {port}: could not be listened on: {error.strerror or error}. Choose another with --port."
            ) from None

    @property
    def url(self) -> str:
        """URL of the page."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"

    def version(self) -> str:
        """Returns a text that changes when a file changes that the page is made from."""
        stamps = []
        for pattern in _PARTS:
            try:
                stamps += [path.stat().st_mtime_ns for path in self.folder.glob(pattern)]
            except OSError:  # the file was removed meanwhile
                continue
        return f"{max(stamps, default=0)}-{len(stamps)}"

    def page(self) -> tuple[str, str]:
        """Returns the version and the page."""
        with self.lock:
            version = self.version()
            if self.cached[0] != version:
                self.cached = (version, self._draw(version))
            return self.cached

    def _draw(self, version: str) -> str:
        try:
            text = render_report(read_results(Layout.of_results(self.folder)), embed=self._address)
        except (UserError, OSError):
            text = "<!doctype html><html><body><main><h1>Nothing is written yet</h1></main></body></html>"
        return text.replace("<body>", f'<body data-version="{version}">').replace("</body>", f"{_SCRIPT}</body>")

    def _address(self, path: Path) -> str:
        place = path.relative_to(self.folder).as_posix()
        return f"/{urllib.parse.quote(place)}?{path.stat().st_mtime_ns}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Watcher
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        try:
            if address.path == "/":
                self._send_page(urllib.parse.parse_qs(address.query).get("since", [""])[0])
            elif address.path.endswith(".mp4"):
                self._send_video(urllib.parse.unquote(address.path.lstrip("/")))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
        except ConnectionError:  # the browser has closed the connection
            return
        except (OSError, ValueError):  # a name that no file can have
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_page(self, since: str) -> None:
        version, text = self.server.page()
        if since == version:
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
            return
        body = text.encode()
        self._head(HTTPStatus.OK, "text/html; charset=utf-8", len(body))
        self.wfile.write(body)

    def _send_video(self, place: str) -> None:
        """A video, or the part of one that a browser asks for to seek in it."""
        path = (self.server.folder / place).resolve()
        if not path.is_relative_to(self.server.folder) or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        start, end = _range(self.headers.get("Range", ""), size)
        status = HTTPStatus.PARTIAL_CONTENT if "Range" in self.headers else HTTPStatus.OK
        more = {"Accept-Ranges": "bytes"}
        if status == HTTPStatus.PARTIAL_CONTENT:
            more["Content-Range"] = f"bytes {start}-{end}/{size}"
        self._head(status, "video/mp4", end - start + 1, more)
        with path.open("rb") as file:
            file.seek(start)
            left = end - start + 1
            while left > 0 and (part := file.read(min(_PART, left))):
                self.wfile.write(part)
                left -= len(part)

    def _head(self, status: HTTPStatus, kind: str, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Does nothing, as the terminal shows only the address."""


def _range(text: str, size: int) -> tuple[int, int]:
    """First and last byte that a Range header asks for; the whole file if the range is invalid."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if text.startswith("bytes=-") and last.isdigit() and int(last):
        return max(0, size - int(last)), size - 1
    if last.isdigit() and first.isdigit() and int(last) < int(first):
        return 0, size - 1
    if text.startswith("bytes=") and first.isdigit() and int(first) < size:
        return int(first), min(int(last), size - 1) if last.isdigit() else size - 1
    return 0, size - 1


def run_watch(folder: Path, *, host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    with Watcher(folder, host=host, port=port) as watcher:
        print(f"smrl: watching {folder} at {watcher.url} until Ctrl-C", flush=True)
        try:
            watcher.serve_forever()
        except KeyboardInterrupt:
            return
