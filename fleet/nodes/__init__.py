"""Nodes, as the site sees them: let in, told, looked after."""

__all__: list[str] = []
