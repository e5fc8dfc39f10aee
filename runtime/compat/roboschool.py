"""`roboschool`, for scripts: importing it registers the environments, as the original's import did."""

import envs

ENVIRONMENTS = tuple(envs.ROBOSCHOOL_IDS)
