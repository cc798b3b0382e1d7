"""The design of a study or a tuning: agents, tasks, seeds, budget, search space."""
