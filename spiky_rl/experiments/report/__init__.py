"""Pages, tables and figures of a study or a tuning."""

FIGURES, TENSORBOARD = "figures", "tensorboard"
"""Folders of a report in the folder of a study or tuning."""
