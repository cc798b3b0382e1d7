"""Backends that run neurons and connections, one file each."""
