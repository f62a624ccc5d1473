"""Commands from the world outside: out of Kafka, onto the bus, and their answers back.

`messages` says what stands in the topics, `rules` who may command what, `known` who is there to be commanded,
`answered` what was done before, `dispatch` carries commands, `registry` carries documents of cameras, `role` is the
process.
"""

from bridge.commands.role import run_commands

__all__ = ["run_commands"]
