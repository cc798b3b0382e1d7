"""Data that are classified: event recordings and digits, as frames in time."""
