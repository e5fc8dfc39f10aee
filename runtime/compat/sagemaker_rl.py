"""`sagemaker_rl` and `sagemaker_rl.ray_launcher`, for scripts."""

from runtime.launcher import SageMakerRayLauncher

__all__ = ["SageMakerRayLauncher"]
