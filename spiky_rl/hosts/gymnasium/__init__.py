"""Gymnasium: its tasks as environments of our learners."""
