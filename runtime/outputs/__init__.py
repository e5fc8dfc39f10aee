"""What a job shows: metrics, the terminal, the learning curve, videos."""
