"""`smrl tracks`: lists the tracks that a job finds, and draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from envs.deepracer.tracks import BUILT_IN, Track, TrackError, load_track
from envs.deepracer.views import Map
from runtime.errors import PlatformError, UserError

_PICTURE = (960, 720)


def list_tracks(names: list[str], folder: Path | None, out: Path | None) -> str:
    """Lists tracks as a table; with `out`, writes a picture of each to that folder.

    Args:
        names: Tracks; all built-in ones and those of the folder if empty.
        folder: Folder of the user's `.npy` track files.
        out: Folder for the pictures.

    Raises:
        UserError: Tracks are missing, or files are not tracks; all of them are listed.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--tracks: got {str(folder)!r}; expected a folder of .npy files.")
    folders = [] if folder is None else [folder]
    found = sorted({path.stem for path in folder.glob("*.npy")}) if folder is not None else []
    tracks = []
    wrong = []
    for name in names or dict.fromkeys((*BUILT_IN, *found)):
        try:
            tracks.append(load_track(name, folders))
        except TrackError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))
    if out is not None:
        _draw(tracks, out)
    lines = [f"{'track':<28} {'length':>8}  {'width':>6}  {'waypoints':>9}  driven"]
    lines += [_describe(track) for track in tracks]
    return "\n".join(lines + ([] if out is None else [f"pictures: {out}"]))


def _describe(track: Track) -> str:
    width = float(np.median(np.linalg.norm(track.inner - track.outer, axis=1)))
    way = (
        "from end to end" if not track.is_closed else "counter-clockwise" if track.is_counter_clockwise else "clockwise"
    )
    return f"{track.name:<28} {track.length:>6.2f} m  {width:>4.2f} m  {len(track.center):>9}  {way}"


def _draw(tracks: list[Track], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for track in tracks:
            Map(track, _PICTURE).image.save(out / f"{track.name}.png")
    except OSError as error:
        raise PlatformError(f"{out}: the pictures could not be written: {error.strerror or error}.") from None
