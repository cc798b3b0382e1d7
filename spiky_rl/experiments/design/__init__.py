"""What a study or a tuning is to run: agents, tasks, seeds, budget, search space."""
