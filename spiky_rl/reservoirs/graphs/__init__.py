"""Graphs: who projects to whom in a reservoir, and how strongly."""
