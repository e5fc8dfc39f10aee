"""The page of a results folder: whole, offline, drawn by a real browser; and the same live while a job writes."""

from __future__ import annotations

import base64
import configparser
import html
import io
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import PlatformError, UserError
from runtime.outputs.learning_curve import smooth
from runtime.report import page as page_module
from runtime.report.figures import small_charts, thin, with_speed
from runtime.report.report_command import run_report
from runtime.report.watch import Watcher
from tests.conftest import ROOT, run_smrl
from tests.tuning.test_tuning_job import LR

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
RACE = {
    "mean_reward": 200.5, "max_reward": 201.0, "min_reward": 200.0, "track": "reinvent_base",
    "dynamics": {"name": "real"}, "episodes": [{"total_reward": 200.5, "steps": 251}],
    "racers": [{"name": "car", "lap_bound_s": 9.96, "laps": [
        {"trial": 1, "episode_status": "Lap complete", "completion_percentage": 100,
         "elapsed_time_in_milliseconds": 16799, "reset_count": 0}]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def results(exported_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a training's results, with a race's evaluation and an attack in its settings."""
    folder = tmp_path_factory.mktemp("report") / "mine <b>&"
    shutil.copytree(exported_results, folder)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(RACE))
    config = json.loads((folder / "config.json").read_text())
    config["notes"].append("<script>alert(1)</script>")
    config["values"]["config.lr"] = "\"'><script>alert(2)</script>"
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    manifest["warnings"] = ["<script>alert(3)</script>"]
    (folder / "model" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(folder / "videos" / "last.mp4", folder / "evaluation" / "<img onerror=alert(4)>.mp4")
    run_report([folder], None)
    return folder


def pictures(page: str) -> list[str]:
    """The SVG pictures inside a page."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [base64.b64decode(text).decode() for text in found]


def test_a_training_ends_with_its_page(exported_results: Path) -> None:
    page = (exported_results / "report.html").read_text()
    rows = [json.loads(line) for line in (exported_results / "metrics.jsonl").read_text().splitlines()]
    assert f"{rows[-1]['episode_reward_mean']:.2f}" in page
    assert f"{rows[-1]['timesteps_total']:,}" in page
    (curve,) = pictures(page)
    assert "return of an episode" in curve
    assert "<figcaption>steps per second <b>" in page
    losses = [row["policy_loss"] for row in rows]
    assert f'aria-label="policy loss: from {min(losses):.4g} to {max(losses):.4g}, at last {losses[-1]:.4g}"' in page
    video = re.search(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert video is not None
    assert base64.b64decode(video[1]) == (exported_results / "videos" / "last.mp4").read_bytes()
    assert "tensorflow-savedmodel" in page
    assert re.search(r"rl.training.config.seed</code></td><td><code>8</code></td><td><code>the command line", page)


def test_a_small_chart_spans_its_values_and_leaves_out_what_is_not_finite() -> None:
    rows = [{"training_iteration": n, "kl": value} for n, value in ((3, 1.0), (4, float("nan")), (5, 5.0), (7, 3.0))]
    (chart,) = small_charts(rows)
    assert chart.points == "0,100 50,0 100,50"
    assert (chart.name, chart.low, chart.high, chart.last) == ("kl", "1", "5", "3")
    assert (chart.first_iteration, chart.last_iteration) == (3, 7)
    (level,) = small_charts([{"training_iteration": 1, "kl": 2.0}])
    assert level.points == "0,50"


def test_tensorboard_has_the_video(exported_results: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(exported_results / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    video = events.Images("rollout")[-1]
    with Image.open(io.BytesIO(video.encoded_image_string)) as picture:
        assert (picture.format, picture.size) == ("GIF", (video.width, video.height))
        assert getattr(picture, "n_frames", 1) > 10


def test_what_others_wrote_is_shown_and_not_run(results: Path) -> None:
    page = (results / "report.html").read_text()
    for number in (1, 2, 3):
        assert f"&lt;script&gt;alert({number})" in page
    assert "<script" not in page
    assert "evaluation: &lt;img onerror=alert(4)&gt;<" in page
    assert "mine &lt;b&gt;&amp;" in page
    assert "<td>Lap complete</td>" in page
    assert "on reinvent_base, dynamics: real: 16.8 s; the track allows 9.9 s." in page
    assert "16.799" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; `apt-get install chromium` brings one")
def test_a_browser_shows_every_picture_and_video_without_a_network(results: Path, tmp_path: Path) -> None:
    probe = """<script>window.onload = () => { document.body.dataset.seen = JSON.stringify({
      pictures: [...document.images].map(i => i.naturalWidth), videos: document.querySelectorAll('video').length,
      loaded: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),
      wide: document.documentElement.scrollWidth > window.innerWidth}); }</script>"""
    page = tmp_path / "page.html"
    page.write_text((results / "report.html").read_text().replace("</body>", probe + "</body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2000", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run([*command, profile, f"file://{page}"], capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r'data-seen="([^"]+)"', done.stdout)
    assert found is not None, done.stderr
    seen = json.loads(html.unescape(found[1]))
    assert len(seen["pictures"]) == 1
    assert all(width > 100 for width in seen["pictures"])
    assert seen["videos"] == 2
    assert seen["loaded"] == []
    assert not seen["wide"]


def test_a_wheel_carries_the_pages_templates() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = Path(page_module.__file__).parent
    assert {*package.glob(setup["options.package_data"]["runtime.report"])} == {*package.glob("templates/**/*.*")}


def test_several_runs_are_compared(results: Path, exported_results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(results, other)
    config = json.loads((other / "config.json").read_text())
    config["values"]["config.lr"] = 0.125
    (other / "config.json").write_text(json.dumps(config))
    page = run_report([exported_results, other], tmp_path / "both.html").read_text()
    (curves,) = pictures(page)
    assert ">other<" in curves
    assert f">{exported_results.name}<" in curves
    differing = re.findall(r"<tr><td><code>(rl\.training\.[\w.]+)</code>", page)
    assert differing == ["rl.training.config.lr"]
    assert "0.125" in page


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        run_report([tmp_path], None)
    with pytest.raises(UserError, match="expected a results folder"):
        run_report([tmp_path / "none"], None)
    done = run_smrl("report", "none", cwd=tmp_path)
    assert done.returncode == 2
    assert "report: got 'none'" in done.stderr


def test_a_tunings_page_lists_its_trials(tmp_path: Path) -> None:
    from runtime.tuning.records import Record, append_record
    from runtime.tuning.request import parse_job

    config = {"ParameterRanges": {"ContinuousParameterRanges": [LR]}, "ResourceLimits": {"MaxNumberOfTrainingJobs": 3}}
    job = parse_job({"HyperParameterTuningJobConfig": config}, source="a test")
    (tmp_path / "tuning.json").write_text(json.dumps({"job": job.as_json()}))
    for number, value in enumerate((1.5, 7.25), start=1):
        append_record(tmp_path, Record(number, 1, "completed", {LR["Name"]: 10.0**-number}, "x", value, 3, 1000))
    append_record(tmp_path, Record(3, 1, "failed", {LR["Name"]: 1e-3}, "x", reason="the loss is NaN"))
    page = run_report([tmp_path], None).read_text()
    assert re.search(r'<tr class="best"><td class="number">2</td><td>completed</td>.*?7\.25', page)
    assert "failed: the loss is NaN" in page
    assert "3 of 3" in page
    assert "best so far" in pictures(page)[0]


def test_a_smoothed_curve_keeps_lines_straight_and_follows_no_spike() -> None:
    line = [2.0 * number for number in range(100)]
    np.testing.assert_allclose(smooth(line)[10:-10], line[10:-10])
    spiked = [0.0] * 50 + [11.0] + [0.0] * 49
    assert max(smooth(spiked)) == pytest.approx(1.0)


def test_long_runs_are_thinned_to_what_a_page_can_hold() -> None:
    rows = [{"training_iteration": number} for number in range(50_000)]
    kept = thin(rows)
    assert (len(kept), kept[0], kept[-1]) == (1_000, rows[0], rows[-1])


def test_speed_is_of_the_last_iteration() -> None:
    rows = [{"timesteps_total": 100, "time_total_s": 2.0}, {"timesteps_total": 400, "time_total_s": 3.0}]
    assert [row["steps_per_second"] for row in with_speed(rows)] == [50.0, 300.0]


@pytest.fixture
def watcher(results: Path, tmp_path: Path) -> Iterator[Watcher]:
    """A live page of a copy of the results."""
    folder = tmp_path / "live"
    shutil.copytree(results, folder)
    with Watcher(folder, port=0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_live_page_changes_when_the_job_writes(watcher: Watcher) -> None:
    with urllib.request.urlopen(watcher.url) as reply:
        page = reply.read().decode()
    version = re.search(r'data-version="([^"]+)"', page)
    assert version is not None
    with urllib.request.urlopen(f"{watcher.url}?since={version[1]}") as reply:
        assert reply.status == 204
    rows = (watcher.folder / "metrics.jsonl").read_text().splitlines()
    row = {**json.loads(rows[-1]), "training_iteration": 99, "episode_reward_mean": 123.25}
    with (watcher.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with urllib.request.urlopen(f"{watcher.url}?since={version[1]}") as reply:
        assert "123.25" in reply.read().decode()


def test_a_live_page_serves_videos_in_parts_and_nothing_else(watcher: Watcher) -> None:
    with urllib.request.urlopen(watcher.url) as reply:
        source = re.search(r'<video[^>]*src="/([^"?]+)\?', reply.read().decode())
    assert source is not None
    video = (watcher.folder / urllib.parse.unquote(source[1])).read_bytes()
    request = urllib.request.Request(watcher.url + source[1], headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(request) as reply:
        assert (reply.status, reply.read()) == (206, video[10:20])
        assert reply.headers["Content-Range"] == f"bytes 10-19/{len(video)}"
    for place in ("config.json", "../secret.mp4", "%2e%2e/secret.mp4", "none.mp4"):
        (watcher.folder.parent / "secret.mp4").write_bytes(b"secret")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(watcher.url + place)


def test_a_taken_port_is_named(watcher: Watcher) -> None:
    with pytest.raises(PlatformError, match=r"port \d+: could not be listened on: Address already in use"):
        Watcher(watcher.folder, port=watcher.server_address[1])
