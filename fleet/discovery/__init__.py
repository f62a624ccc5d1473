"""Cameras and nodes that are there already: found, recognised again, set up."""

__all__: list[str] = []
