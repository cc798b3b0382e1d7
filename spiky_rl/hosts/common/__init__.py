"""What every host keeps of a run, whichever library trains: folders, checkpoints, progress, spikes, playback."""
