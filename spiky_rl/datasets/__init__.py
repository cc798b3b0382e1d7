"""Datasets: labelled recordings of event sensors, one file per dataset.

A new one derives from `base.Dataset` and lists its recordings; `custom` reads a folder of your own.
"""
