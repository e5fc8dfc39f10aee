"""The platform's settings for serving, read from environment variables."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from runtime.container.hardware import count_cpus, measure_free_memory
from runtime.container.layout import find_base
from runtime.errors import Problems

_DEFAULT_PORT = 8080
_CAPTURE_MB = 1024
_TRUE = ("1", "true")
_FALSE = ("", "0", "false")
RESPONSE_TYPES = ("application/json", "application/jsonlines", "text/csv", "application/x-npy")


@dataclass(frozen=True)
class ServingSettings:
    """The platform's settings for serving.

    Attributes:
        model: Model directory; None on a laptop.
        is_multi_model: Whether models are loaded by name.
        port: Port to listen on.
        workers: Number of worker processes; by default one per CPU.
        default_accept: Content type of responses to clients that accept anything.
        max_body_bytes: Largest request body; by default SageMaker's own limits, 25 MB in real time and 100 MB in batch.
        timeout_s: Time limit of one request.
        access_log: Whether to print a line per request.
        models_mb: Memory for the models of a multi-model endpoint; by default half of what is free.
        temperature: Temperature at which actions are sampled; None if not given.
        epsilon: Share of uniformly random actions; None if not given. Either of the two switches explore mode on.
        capture: Folder that decisions are captured in; None for no capture.
        capture_mb: Most that its files may hold.
        variants: Policies that share the decisions, as NAME=DIR:WEIGHT.
        shadow: Policy whose decisions are captured and not sent; None if not given.
    """

    model: Path | None
    is_multi_model: bool
    port: int
    workers: int
    default_accept: str
    max_body_bytes: int
    timeout_s: float
    access_log: bool
    models_mb: float
    temperature: float | None
    epsilon: float | None
    capture: Path | None
    capture_mb: float
    variants: tuple[str, ...]
    shadow: Path | None


def read_serving_settings() -> ServingSettings:
    """Reads the serving settings from environment variables.

    Raises:
        UserError: Variables have invalid values; all of them are listed.
    """
    env = os.environ
    base = find_base()
    problems = Problems()

    def number(name: str, default: float, *, low: float, high: float = math.inf, whole: bool = False) -> float:
        text = env.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value) or (whole and value % 1):
            kind = "a whole number" if whole else "a number"
            most = "" if math.isinf(high) else f" and at most {high:g}"
            problems.add(name, text, "the environment", expected=f"{kind} of at least {low:g}{most}")
            return default
        return value

    def flag(name: str) -> bool:
        text = env.get(name, "").lower()
        if text not in _TRUE + _FALSE:
            problems.add(name, text, "the environment", expected="true or false")
        return text in _TRUE

    accept = env.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "")
    if accept not in ("", "*/*", *RESPONSE_TYPES):
        problems.add(
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
            accept,
            "the environment",
            expected=f"one of {', '.join(RESPONSE_TYPES)}",
        )
    usual_mb = 100 if flag("SAGEMAKER_BATCH") else 25

    serving = ServingSettings(
        model=None if base is None else base / "model",
        is_multi_model=flag("SAGEMAKER_MULTI_MODEL"),
        port=int(number("SAGEMAKER_BIND_TO_PORT", _DEFAULT_PORT, low=1, high=65535, whole=True)),
        workers=int(number("SAGEMAKER_MODEL_SERVER_WORKERS", count_cpus(), low=1, whole=True)),
        default_accept=accept,
        # SageMaker means no limit by 0; a request is held in memory here, so there is one.
        max_body_bytes=int((number("SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, low=0) or usual_mb) * 2**20),
        timeout_s=number("SAGEMAKER_MODEL_SERVER_TIMEOUT", 60, low=0.001),
        access_log=flag("SMRL_ACCESS_LOG"),
        models_mb=number("SMRL_MODELS_MB", 0, low=0) or measure_free_memory() / 2**20 / 2,
        temperature=number("SMRL_TEMPERATURE", 0, low=0) if env.get("SMRL_TEMPERATURE") else None,
        epsilon=number("SMRL_EPSILON", 0, low=0, high=1) if env.get("SMRL_EPSILON") else None,
        capture=Path(env["SMRL_CAPTURE"]) if env.get("SMRL_CAPTURE") else None,
        capture_mb=number("SMRL_CAPTURE_MB", _CAPTURE_MB, low=1),
        variants=tuple(word.strip() for word in env.get("SMRL_VARIANTS", "").split(",") if word.strip()),
        shadow=Path(env["SMRL_SHADOW"]) if env.get("SMRL_SHADOW") else None,
    )
    problems.raise_if_any()
    return serving


def serving_port() -> int:
    """Returns the port that this container's server listens on."""
    port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "")
    return int(port) if port.isdigit() else _DEFAULT_PORT
