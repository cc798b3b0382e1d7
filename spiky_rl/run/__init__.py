"""A run of one process, from what a user asks for to what it leaves: training, playing and measuring in a simulator."""
