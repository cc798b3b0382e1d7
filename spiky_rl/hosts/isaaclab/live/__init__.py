"""Live views: Isaac Lab's visualizers, with the spikes of environment 0 beside the robot."""
