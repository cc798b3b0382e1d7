"""Spiking neurons: one file each, with one pure step each."""
