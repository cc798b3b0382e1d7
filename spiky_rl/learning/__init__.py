"""Learning rules: gradients and local rules that change weights."""
