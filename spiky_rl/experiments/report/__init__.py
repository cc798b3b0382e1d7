"""Pages, tables and figures of a study or a tuning."""

FIGURES, TENSORBOARD = "figures", "tensorboard"
"""Folders that a report writes below a study's or a tuning's."""
