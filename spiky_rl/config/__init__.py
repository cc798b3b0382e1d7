"""Configuration: the registry of components, and checked options from files and command lines."""
