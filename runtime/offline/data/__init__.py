"""Logged data: how it is read, checked and arranged."""
