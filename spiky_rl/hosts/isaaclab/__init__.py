"""Isaac Lab: its tasks, simulation and live views.

`host` is the entry, `environment` wraps a task, `conditions` perturb it.
"""
