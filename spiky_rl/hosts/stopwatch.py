"""Timing of a device's work without waiting for the device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Sum of the seconds between starts and stops. A CUDA device is timed by events, which only `seconds` reads."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._seconds, self._begun = 0.0, 0.0
        self._event: torch.cuda.Event | None = None
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Start the clock; work queued before is not counted, even if the device has not finished it."""
        if self._device.type == "cuda":
            self._event = self._record_event()
        else:
            self._begun = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock; work queued since `start` is counted."""
        if self._event is not None:
            self._events.append((self._event, self._record_event()))
        else:
            self._seconds += time.perf_counter() - self._begun

    @property
    def seconds(self) -> float:
        """Total seconds so far. Waits for the device."""
        for begun, ended in self._events:
            ended.synchronize()
            self._seconds += begun.elapsed_time(ended) / 1000.0
        self._events.clear()
        return self._seconds

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
