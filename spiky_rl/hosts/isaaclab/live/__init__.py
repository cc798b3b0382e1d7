"""The robot while it trains or plays: Isaac Lab's own visualizers, with the spikes of environment 0 beside it."""
