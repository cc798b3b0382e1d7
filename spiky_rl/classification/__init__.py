"""Classifiers of event recordings: samples and splits, training, inference, and result files."""
