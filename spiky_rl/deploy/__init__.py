"""Trained policies without this package: one file per target, each proved equal to the live policy."""
