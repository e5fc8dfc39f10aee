"""The page of all presets, from their files: `python -m runtime.reference.presets_page > docs/presets.md`."""

from __future__ import annotations

from typing import Any

from runtime.settings.presets import load_shipped_presets

_HEAD = """\
# Presets

Generated from `presets/*.yaml` by `python -m runtime.reference.presets_page`; a test keeps the two equal.

```
smrl train --preset hopper
smrl presets show hopper          # every setting, and who set it
smrl train --preset mine.yaml     # your own
```

| preset | environment | algorithm | stops at | minutes on 2 cores | steps |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Renders the page in Markdown."""
    presets = load_shipped_presets()
    rows = []
    parts = []
    for name, preset in presets.items():
        training = preset.training
        stop = ", ".join(f"`{key}` {value:,}" for key, value in training.get("stop", {}).items())
        env = training.get("env") or "logged data"
        steps = "" if preset.steps is None else f"{preset.steps:,}"
        cells = [f"[{name}](#{name})", env, training.get("run", "PPO"), stop, f"{preset.minutes:g}", steps]
        rows.append(f"| {' | '.join(cells)} |")
        settings = [f"| `{path}` | `{value}` |" for path, value in _flatten(training.get("config", {}))]
        expected = f"Expected return: {preset.expected_return:g}."
        table = "\n".join(["| `rl.training.config.…` | value |", "|---|---|", *settings])
        parts.append(f"## {name}\n\n{preset.description} {expected}\n\n{preset.source.strip()}\n\n{table}\n")
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(parts)


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        found += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


if __name__ == "__main__":
    print(page(), end="")
