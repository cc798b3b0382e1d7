"""Classifiers of event recordings: samples and splits, training, inference, and result files.

`training` has the loop, `run` prepares one from a command's options, `inference` reads a trained classifier.
"""
