"""Studies: agents x tasks x seeds, their cells, statistics and report.

`design` reads a study, `run` works its cells, `analysis` tests the results, `report` writes them down.
"""
