"""The image in real containers."""
