"""The nodes as a population: who belongs to the site, and with which rights."""

__all__: list[str] = []
