"""Codecs: observations into spikes or currents, spikes or membranes into features."""
