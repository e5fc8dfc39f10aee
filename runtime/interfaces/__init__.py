"""The interfaces between jobs, algorithms and environment families."""
