"""The parts of a run that all hosts share, whichever library trains: folders, checkpoints, progress, spikes, playback.

`runner.BaseRunner` is what a learner's runner derives from.
"""
