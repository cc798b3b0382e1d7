"""Pages, tables and figures of a study or a tuning."""
