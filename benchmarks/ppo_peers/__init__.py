"""What runs in the peers' own environment, `.venv/bench`: each a process that prints one line of JSON."""
