"""The design of a study or a tuning: agents, tasks, seeds, budget, search space.

`study.Study` has every key of a `study.yaml`, `grid` makes its cells.
"""
