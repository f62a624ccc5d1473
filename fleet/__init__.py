"""The nodes and cameras as a population: found, enrolled, told what to do, kept up to date."""

__all__: list[str] = []
