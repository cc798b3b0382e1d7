"""Training, playback and evaluation in a simulator, in one process: from the request to the result files.

`run_plan` turns a request into a plan, `train`, `play` and `evaluate` carry it out.
"""
