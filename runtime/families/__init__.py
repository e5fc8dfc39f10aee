"""Families of environments: what differs between them, behind one interface."""
