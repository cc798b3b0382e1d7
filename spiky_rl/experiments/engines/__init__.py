"""What runs cells: on this machine, or on the machines of a cluster."""
