"""What simulates: one package for each simulator."""
