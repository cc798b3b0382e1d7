"""Backends: what runs neurons and connections; one file each, an object that says what it can do."""
