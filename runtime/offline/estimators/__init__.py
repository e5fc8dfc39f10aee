"""Estimators of a policy's value from logged data."""
