"""A run of one process, from what a user asks for to what it leaves: training, playing and measuring in a simulator.

`run_plan` turns a request into a plan, `train`, `play` and `evaluate` carry it out.
"""
