"""Growth: reservoirs that develop from one node by a rule, and the evolution of such rules."""
