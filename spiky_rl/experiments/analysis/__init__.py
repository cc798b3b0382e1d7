"""Statistics of result files."""
