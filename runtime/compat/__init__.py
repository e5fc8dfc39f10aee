"""Stands in for modules that scripts of 2020 import: gym's old API, roboschool, sagemaker_rl, ray.rllib.agents.

`smrl_scripts_of_2020`, beside this package, brings them into the reach of such scripts.
"""
