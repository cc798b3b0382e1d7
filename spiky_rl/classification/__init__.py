"""Classifiers of event recordings: their samples and splits, training, and what a run leaves."""
