"""`roboschool`, for scripts: importing it registers the environments, as the original's import did."""

import envs  # noqa: F401  # registers them
