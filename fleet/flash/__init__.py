"""A node's card: an operating system's image with all that a first boot needs."""

__all__: list[str] = []
