"""Tests; `make test` runs them."""
