"""The page of a results folder: whole, offline, drawn by a real browser; and the same live while a job writes."""

from __future__ import annotations

import base64
import configparser
import html
import io
import json
import re
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import PlatformError, UserError
from runtime.outputs.learning_curve import smooth
from runtime.report import page as page_module
from runtime.report.comparison import group_runs, render_comparison
from runtime.report.figures import chart_curve, small_charts, thin, with_speed
from runtime.report.report_command import run_report
from runtime.report.results import Results
from runtime.report.watch import Watcher
from tests.browser import needs_chromium, run_chromium
from tests.conftest import ROOT, run_smrl
from tests.tuning.test_tuning_job import LR

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


def charts(page: str) -> list[dict[str, Any]]:
    """The charts of a page, each with the text for those who do not see it."""
    found = re.findall(r'role="img" aria-label="([^"]+)" data-chart=\'([^\']+)\'', page)
    return [{"alt": html.unescape(alt), **json.loads(html.unescape(text))} for alt, text in found]


def column(chart: dict[str, Any], label: str, at: int = 0) -> list[float | None]:
    """The values of a line of a chart."""
    plot = chart["plots"][at]
    (place,) = [place for place, one in enumerate(plot["series"]) if one["label"] == label]
    values: list[float | None] = plot["columns"][place + 1]
    return values


def without_own_script(page: str) -> str:
    """A page without the script that draws its charts."""
    own = re.compile(r"<script>\n/\*\nThe MIT License.*?smrlCharts\.start\(\);\n\n?</script>", re.DOTALL)
    rest, found = own.subn("", page)
    assert found == 1
    return rest


def test_a_training_ends_with_its_page(exported_results: Path) -> None:
    page = (exported_results / "report.html").read_text()
    rows = [json.loads(line) for line in (exported_results / "metrics.jsonl").read_text().splitlines()]
    assert f"{rows[-1]['episode_reward_mean']:.2f}" in page
    assert f"{rows[-1]['timesteps_total']:,}" in page
    curve, *small = charts(page)
    assert curve["y"] == "episode return"
    scored = [row for row in rows if "episode_reward_mean" in row]
    assert curve["plots"][0]["columns"][0] == [row["timesteps_total"] for row in scored]
    assert column(curve, "mean") == pytest.approx([row["episode_reward_mean"] for row in scored], rel=1e-5)
    assert column(curve, "highest") == pytest.approx([row["episode_reward_max"] for row in scored], rel=1e-5)
    losses = [row["policy_loss"] for row in rows]
    ends = f"from {min(losses):.4g} to {max(losses):.4g}, last {losses[-1]:.4g}"
    assert f"policy loss over environment steps: {ends}" in [chart["alt"] for chart in small]
    assert small[0]["y"] == "steps/s"
    video = re.search(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert video is not None
    assert base64.b64decode(video[1]) == (exported_results / "videos" / "last.mp4").read_bytes()
    assert "tensorflow-savedmodel" in page
    assert re.search(r"rl.training.config.seed</code></td><td><code>8</code></td><td><code>the command line", page)


def test_the_page_says_how_the_run_ended_and_how_to_repeat_it(exported_results: Path) -> None:
    page = (exported_results / "report.html").read_text()
    record = json.loads((exported_results / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["reason"].startswith("training_iteration")
    assert f"<b>finished</b>: {record['reason']}" in page
    assert f"<td>{record['command']}</td>" in html.unescape(page)
    assert record["command"].startswith("smrl train")
    for part in (record["machine"], f"python {record['versions']['python']}", record["ended"][:10]):
        assert part in page


def test_a_video_shows_a_frame_until_it_plays(exported_results: Path) -> None:
    from PIL import Image

    found = re.search(r'poster="data:image/jpeg;base64,([^"]+)"', (exported_results / "report.html").read_text())
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as poster:
        assert poster.height == 240


def test_a_small_chart_leaves_out_what_is_not_finite() -> None:
    rows = [{"training_iteration": n, "kl": value} for n, value in ((3, 1.0), (4, float("nan")), (5, 5.0), (7, 3.0))]
    (chart,) = small_charts(rows)
    assert chart.as_json()["plots"][0]["columns"] == [[3, 4, 5, 7], [1.0, None, 5.0, 3.0]]
    assert (chart.title, chart.y_label) == ("KL divergence", "nats")
    assert chart.alt == "KL divergence over iteration: from 1 to 5, last 3"


def test_a_distant_goal_is_named_and_a_near_one_drawn() -> None:
    rows = [{"timesteps_total": n, "episode_reward_mean": float(n)} for n in range(11)]
    near = chart_curve(rows, 20.0)
    assert near is not None
    assert (near.plots[0].series[-1].label, near.plots[0].series[-1].values) == ("goal", [20.0] * 11)
    assert near.note == ""
    for goal in (475.0, -475.0):
        distant = chart_curve(rows, goal)
        assert distant is not None
        assert all(one.style != "goal" for one in distant.plots[0].series)
        assert f"{goal:g}" in distant.note


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
    rest = without_own_script(page)
    assert "<script" not in rest
    assert "evaluation: &lt;img onerror=alert(4)&gt;<" in page
    assert "mine &lt;b&gt;&amp;" in page
    assert "<td>Lap complete</td>" in page
    assert "on reinvent_base, dynamics: real: 16.8 s; the track allows 9.9 s." in page
    assert "16.799" in page


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_chart_picture_and_video_without_a_network(
    results: Path, tmp_path: Path, width: int
) -> None:
    probe = """return {
      pictures: [...document.images].map(i => i.naturalWidth),
      videos: document.querySelectorAll('video[poster]').length,
      boxes: document.querySelectorAll('.chart').length,
      charts: [...document.querySelectorAll('.chart canvas')].map(c => c.getBoundingClientRect().width),
      loaded: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),
      width: innerWidth, wide: document.documentElement.scrollWidth > innerWidth}"""
    seen = run_chromium((results / "report.html").read_text(), tmp_path, probe, width=width)
    assert seen["width"] == width
    assert all(wide > 100 for wide in seen["pictures"])
    assert seen["videos"] == 2
    assert len(seen["charts"]) == seen["boxes"] > 5
    assert all(200 < wide < width for wide in seen["charts"])
    assert seen["loaded"] == []
    assert not seen["wide"]


@needs_chromium
def test_a_chart_shows_its_values_under_the_mouse_and_the_last_ones_without(results: Path, tmp_path: Path) -> None:
    page = (results / "report.html").read_text()
    chart = charts(page)[1]  # steps per second
    probe = """const chart = smrlCharts.drawn[1], first = document.querySelectorAll('.chart')[1];
    const values = () => [...first.querySelectorAll('.u-value')].map(cell => cell.textContent);
    const frame = () => new Promise(done => setTimeout(done, 100));
    await frame();
    const before = values();
    const box = chart.over.getBoundingClientRect();
    const move = (kind, x) => chart.over.dispatchEvent(
      new MouseEvent(kind, {clientX: box.left + x, clientY: box.top + 5, bubbles: true}));
    move('mouseenter', 1); move('mousemove', 1);
    await frame();
    const under = values();
    move('mouseleave', -50);
    await frame();
    return {before, under, after: values()}"""
    seen = run_chromium(page, tmp_path, probe)
    steps, speeds = chart["plots"][0]["columns"]
    numbers = {name: [float(text.replace(",", "")) for text in texts] for name, texts in seen.items()}
    assert numbers["under"] == pytest.approx([steps[0], speeds[0]], rel=1e-3, abs=0.5)
    assert numbers["before"] == numbers["after"] == pytest.approx([steps[-1], speeds[-1]], rel=1e-3, abs=0.5)


@needs_chromium
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (390, True)])
def test_axe_finds_nothing_on_a_report_and_on_a_comparison(
    results: Path, exported_results: Path, tmp_path: Path, width: int, is_dark: bool
) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is absent; `make install` brings it")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    comparison = run_report([exported_results, results], tmp_path / "both.html").read_text()
    probe = """const found = await axe.run();
      return {dark: matchMedia('(prefers-color-scheme: dark)').matches, passes: found.passes.map(rule => rule.id),
        violations: found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html.slice(0, 200))])}"""
    for page in ((results / "report.html").read_text(), comparison):
        with_axe = page.replace("</body>", f"<script>{script}</script></body>")
        seen = run_chromium(with_axe, tmp_path, probe, width=width, is_dark=is_dark)
        assert seen["dark"] == is_dark
        assert {"color-contrast", "role-img-alt", "document-title"} <= set(seen["passes"])
        assert seen["violations"] == []


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
    curve, *small = charts(page)
    assert [one["label"] for one in curve["plots"][0]["series"]][1:] == ["lr 0.125"]
    assert [plot["x"] for plot in curve["plots"]] == ["environment steps", "seconds of training"]
    assert [chart for chart in small if chart["alt"].startswith("policy loss of 2 settings")]
    differing = re.findall(r"<tr><td><code>(rl\.training\.[\w.]+)</code>", page)
    assert differing == ["rl.training.config.lr"]
    assert "0.125" in page
    assert len(re.findall("<video ", page)) == 2


def make_run(name: str, *, seed: int, lr: float, slope: float, steps: int, env: str = "A-v0") -> Results:
    """A run whose return rises with its steps from 0, one step a second."""
    rows = [
        {"training_iteration": n, "timesteps_total": at, "time_total_s": float(at), "episode_reward_mean": slope * at}
        for n, at in enumerate(range(0, steps + 1, 100))
    ]
    return Results(name, rows, {"values": {"env": env, "config.seed": seed, "config.lr": lr}})


def test_runs_that_differ_in_their_seed_are_one_line_with_a_band() -> None:
    runs = [
        make_run("a", seed=1, lr=0.1, slope=1.0, steps=1000),
        make_run("b", seed=2, lr=0.1, slope=3.0, steps=500),
        make_run("c", seed=1, lr=0.2, slope=5.0, steps=1000),
        make_run("d", seed=1, lr=0.1, slope=7.0, steps=1000, env="B-v0"),
    ]
    assert [(group.label, len(group.runs)) for group in group_runs(runs[:3])] == [
        ("lr 0.1 (2 seeds)", 2),
        ("lr 0.2", 1),
    ]
    first, _, second, _ = charts(render_comparison(runs))  # each with its steps per second
    x = np.array(first["plots"][0]["columns"][0], np.float64)
    both, alone = x < 499, x > 501
    label = "lr 0.1 (2 seeds)"
    for name, within in ((label, 2), (f"highest of {label}", 3), (f"lowest of {label}", 1)):
        values = np.array(column(first, name), np.float64)
        np.testing.assert_allclose(values[both], within * x[both], rtol=1e-4, atol=1e-3)
        assert np.isnan(values[alone]).all()
    rest = np.array(column(first, f"{label}, mean of the runs that continued"), np.float64)
    np.testing.assert_allclose(rest[alone], x[alone], rtol=1e-4, atol=1e-3)
    assert np.isnan(rest[both]).all()
    np.testing.assert_allclose(np.array(column(first, "lr 0.2", 1), np.float64), 5 * x, rtol=1e-4, atol=1e-3)
    assert [one["label"] for one in second["plots"][0]["series"]] == ["d"]


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
    (chart,) = charts(page)
    assert chart["y"] == job.objective
    assert column(chart, "ran to its end") == [1.5, 7.25]
    assert column(chart, "best so far") == ([1.5, 7.25] if job.maximize else [1.5, 1.5])


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
