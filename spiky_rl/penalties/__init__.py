"""Penalties on activity: terms beside the loss that a network is trained by."""
