"""Unity scenes as jobs: their settings, the runner that samples many agents, and their evaluation."""
