"""Outputs of a job: metrics, terminal display, learning curve, videos."""
