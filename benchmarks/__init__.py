"""Benchmarks: each is a script that prints and writes its table."""
