"""What happens at given times: snapshots, safety checks, restarts of cameras, retention, and the hours for changes."""

from fleet.schedules.scheduler import Scheduler

__all__ = ["Scheduler"]
