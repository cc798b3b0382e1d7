"""Backends that run neurons and connections, one file each.

A new one derives from `base.Backend` and says on which devices it runs.
"""
