"""DeepRacer: cars that drive by camera."""
