"""Spiking neurons: one file each, one pure step each."""
