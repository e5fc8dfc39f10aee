"""Pages in headless Chromium."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed; `apt-get install chromium` brings one"
)
_PROBE_PAGE = "probe.html"


def run_chromium(page: str, folder: Path, probe: str, *, width: int = 1280, is_dark: bool = False) -> Any:
    """Opens a page in a browser and returns what a script finds there.

    Args:
        page: The page.
        folder: Folder for the page and the browser's profile.
        probe: Body of an async function, which returns what JSON can hold.
        width: Width of the page in pixels; a frame's, as Chromium's own windows have a least width.
        is_dark: Whether the browser prefers dark colors.
    """
    script = (
        f"<script>const probe = async () => {{ {probe} }};"
        "onload = async () => { parent.document.body.dataset.seen = JSON.stringify(await probe()); }</script>"
    )
    framed = html.escape(page.replace("</body>", script + "</body>"))
    path = folder / "page.html"
    path.write_text(f'<body><iframe srcdoc="{framed}" style="border: 0; width: {width}px; height: 2000px"></iframe>')
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"),
        *("--window-size=1400,2000", f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"),
        *("--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}", f"file://{path}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'data-seen="([^"]+)"', done.stdout)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1]))


def probe_site(site: Path, probe: str, folder: Path) -> Any:
    """Serves a folder, opens a page beside its own in a browser, and returns what a script finds there.

    Args:
        site: Folder of pages; the script can open them in frames, as they are of its own origin.
        probe: Body of an async function, which returns what JSON can hold.
        folder: Folder for the browser's profile.
    """
    seen: list[Any] = []
    has_seen = threading.Event()
    script = (
        f"const probe = async () => {{ {probe} }};"
        "onload = async () => { const seen = await probe().catch(error => ({error: String(error)}));"
        " await fetch('/seen', {method: 'POST', body: JSON.stringify(seen)}); }"
    )

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == f"/{_PROBE_PAGE}":
                self._answer(f"<body><script>{script}</script></body>".encode())
            else:
                super().do_GET()

        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")
            has_seen.set()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Prints nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"),
            *(f"--user-data-dir={folder / 'profile'}", f"http://127.0.0.1:{server.server_port}/{_PROBE_PAGE}"),
        ]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        has_seen.wait(240)
        browser.terminate()
        browser.wait(30)
        server.shutdown()
    (found,) = seen
    assert not isinstance(found, dict) or "error" not in found, found
    return found
