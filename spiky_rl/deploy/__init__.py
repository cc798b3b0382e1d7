"""Exports of trained policies: one module per target; every export is verified against the live policy.

A target derives from `base.Target`; files and modules with an underscore serve the targets.
"""
