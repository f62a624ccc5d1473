"""The agent of a node: what the site asks for, made to run there."""

__all__: list[str] = []
