"""Growth of graphs from one node by a rule, and the evolution of such rules."""
