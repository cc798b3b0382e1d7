"""Datasets: labelled recordings of event sensors, one file per dataset."""
