"""Statistics of result files.

`outcome` collects a study's numbers; `statistics` has the intervals and tests, `verdicts` those that were planned.
"""
