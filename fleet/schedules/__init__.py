"""What is done at given times: snapshots, safety checks, reboots, windows."""

__all__: list[str] = []
