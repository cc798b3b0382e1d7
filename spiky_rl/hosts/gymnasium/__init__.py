"""Gymnasium: its tasks as environments of our learners.

`host` is the entry, `environment` batches a task, `interface` describes its observations for exports.
"""
