"""Exports of trained policies: one module per target; every export is verified against the live policy."""
