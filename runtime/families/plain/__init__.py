"""Environments without a simulator of their own kind: Gymnasium's, Roboschool's, and the user's."""
