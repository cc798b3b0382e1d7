"""Isaac Lab: its tasks, its simulation and what it draws."""
