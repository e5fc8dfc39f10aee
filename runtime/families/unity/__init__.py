"""Unity scenes."""
