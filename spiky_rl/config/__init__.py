"""Configuration: the registry of components, and checked options from files and command lines.

`registry` finds components by name, `spec` reads an agent, `options` checks values and names the wrong key.
"""
