"""Commands: each parses its arguments, calls the package and prints the outcome."""
