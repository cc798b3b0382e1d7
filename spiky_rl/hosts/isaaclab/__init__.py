"""Isaac Lab: its tasks, its simulation and what it draws.

`host` is the entry, `environment` wraps a task, `conditions` disturb it.
"""
