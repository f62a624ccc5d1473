"""The registry: the site's cameras and nodes as files, and the documents that the bus gets of them."""

__all__: list[str] = []
