"""Trained policies, ready to act."""
