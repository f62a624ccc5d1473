"""What a node installs: wheels, packages and the units, in one signed file."""

__all__: list[str] = []
