"""The parts of a run that all hosts share, whichever library trains: folders, checkpoints, progress, spikes, playback."""
