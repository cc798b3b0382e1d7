"""Codecs: observations into spikes or currents, spikes or membranes into features.

An encoder is the first part of a network, a decoder the last.
"""
