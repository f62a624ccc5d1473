"""For people: the command line's root, `vigil up`, the live tail of the bus, the web page."""

__all__: list[str] = []
