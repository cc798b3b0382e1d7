"""Datasets: recordings of event sensors that are classified, one file each."""
