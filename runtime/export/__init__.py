"""Policies in the formats that serve them: a neutral graph, three writers, and the check of what they wrote."""
