"""Another version of Vigil on a node: fetched, checked, tried, and left again where it does not do."""

__all__: list[str] = []
