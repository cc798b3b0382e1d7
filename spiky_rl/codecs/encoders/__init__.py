"""Encoders: observations [T, B, O] into currents or spikes."""
