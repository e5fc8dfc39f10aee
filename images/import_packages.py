"""Imports what jobs import, so that Python compiles that and no more: the bytecode of all packages is 260 MB.

The image has bytecode only of what was imported here. Any other module still works: Python compiles it when it is
imported. Run: python images/import_packages.py, in an image's own Python, after `pip install --no-compile`.
"""

from __future__ import annotations

import compileall
import importlib
import importlib.util
import io
import tempfile

MODULES = (
    "av",
    "boto3",
    "d3rlpy",
    "grpc",
    "gym",
    "h5py",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.pyplot",
    "msgspec",
    "numba",
    "onnx",
    "onnxruntime",
    "optuna",
    "orjson",
    "packaging.requirements",
    "pandas",
    "psutil",
    "pyarrow.compute",
    "pyarrow.parquet",
    "pybullet",
    "pybullet_data",
    "pydantic",
    "ray.experimental.internal_kv",
    "ray.rllib.algorithms.ppo.ppo_catalog",
    "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module",
    "ray.rllib.algorithms.ppo.torch.ppo_torch_learner",
    "ray.rllib.connectors.env_to_module",
    "ray.rllib.env.single_agent_env_runner",
    "ray.rllib.evaluation.postprocessing",
    "rich.live",
    "rich.panel",
    "rich.progress_bar",
    "rich.table",
    "safetensors.numpy",
    "sagemaker_training.cli.train",
    "scipy.interpolate",
    "scipy.optimize",
    "shimmy.openai_gym_compatibility",
    "tensorboard.compat.proto.graph_pb2",
    "tensorboard.compat.proto.meta_graph_pb2",
    "tensorboardX",
    "threadpoolctl",
    "torch",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.supervisors",
    "uvloop",
    "yaml",
)


# These import only after smrl has changed how; they are small, and compiled whole.
WHOLE = ("mlagents_envs",)


def export_a_network() -> None:
    """Exports a layer, as torch imports half of itself when it does."""
    import torch

    program = torch.export.export(
        torch.nn.Linear(2, 2), (torch.zeros(3, 2),), dynamic_shapes=({0: torch.export.Dim("B")},)
    )
    torch.export.save(program, io.BytesIO())


def start_ray() -> None:
    """Runs a task, whose processes import modules of their own."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=folder)
        ray.get(ray.remote(lambda: 0).remote())
        ray.shutdown()


def draw() -> None:
    """Draws a plot and opens a client of S3, which load their parts when they are used."""
    import boto3
    from matplotlib.figure import Figure

    Figure().add_subplot().figure.savefig(io.BytesIO(), format="png")
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-")


if __name__ == "__main__":
    for name in MODULES:
        importlib.import_module(name)
    for name in WHOLE:
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        for folder in spec.submodule_search_locations or ():
            compileall.compile_dir(folder, quiet=1)
    export_a_network()
    draw()
    start_ray()
