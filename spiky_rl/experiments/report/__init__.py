"""Pages, tables and figures of a study or a tuning.

`sections` makes blocks of text, tables and figures; `pages` writes them as HTML and Markdown.
"""

FIGURES, TENSORBOARD = "figures", "tensorboard"
"""Folders of a report in the folder of a study or tuning."""
