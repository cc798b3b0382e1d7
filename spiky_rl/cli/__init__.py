"""Commands: one parser each, thin."""
