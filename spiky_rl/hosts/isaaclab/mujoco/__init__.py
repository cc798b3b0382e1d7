"""Isaac Lab's Newton physics with the worlds stepped by MuJoCo's C library, on as many threads as torch has."""
