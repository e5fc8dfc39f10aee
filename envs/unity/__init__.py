"""Unity scenes over ML-Agents' protocol: the registry's, or a user's own executable."""
