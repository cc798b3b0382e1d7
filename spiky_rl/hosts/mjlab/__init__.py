"""mjlab as a host: its tasks in our commands, and our agents in its commands."""
