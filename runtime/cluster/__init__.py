"""Several hosts as one Ray cluster."""
