"""Graphs: the recurrent wiring of a reservoir, with its weights."""
