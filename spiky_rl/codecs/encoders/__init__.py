"""Encoders: observation [T, B, O] into currents or spikes."""
