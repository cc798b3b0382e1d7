"""Penalties on activity: terms added to the training loss."""
