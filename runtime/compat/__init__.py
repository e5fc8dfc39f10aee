"""What scripts of 2020 import and no longer exists: gym's old API, roboschool, sagemaker_rl, ray.rllib.agents.

`startup` is imported by a .pth file at every start of Python, and serves users' scripts alone.
"""
