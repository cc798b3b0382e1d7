"""Studies: agents x tasks x seeds, their cells, statistics and report."""
