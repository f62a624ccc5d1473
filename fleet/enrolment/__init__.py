"""Who belongs to the site, and with which rights: the authority's door, one-time tokens, certificates."""

__all__: list[str] = []
