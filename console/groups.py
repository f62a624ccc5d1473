"""Commands of the root that are groups, and whose own commands belong to several components."""

from __future__ import annotations

import click

from console.lazy import CommandEntry, LazyGroup

__all__ = ["camera", "node", "registry"]


@click.group(
    cls=LazyGroup,
    entries=(
        CommandEntry("add", "fleet.registry.camera_cli:add", "Add a camera, and see whether it works.", "fleet"),
        CommandEntry("list", "fleet.registry.list_cli:list_", "List the cameras, and how they are.", "fleet"),
        CommandEntry("show", "fleet.registry.list_cli:show", "Show a camera and its file.", "fleet"),
        CommandEntry("edit", "fleet.registry.edit_cli:edit", "Change what a camera's file says.", "fleet"),
        CommandEntry("remove", "fleet.registry.camera_cli:remove", "Take cameras out of the registry.", "fleet"),
        CommandEntry("exclude", "fleet.registry.camera_cli:exclude", "Leave cameras alone.", "fleet"),
        CommandEntry("set", "console.camera_cli:set_", "Set a property of a camera, and print what it is then."),
        CommandEntry("test", "edge.camera_cli:test", "Open a camera, and say what comes.", "edge"),
        CommandEntry(
            "check", "fleet.schedules.check_cli:check", "Look whether a camera shows what it should.", "fleet"
        ),
        CommandEntry("setup", "fleet.discovery.cli_setup:setup", "Set a camera over ONVIF.", "fleet"),
    ),
)
def camera() -> None:
    """The site's cameras.

    \b
    Examples:
      vigil camera add yard rtsp://10.0.0.7/s1 --node porch --area Garden
      vigil camera list
      vigil camera edit yard --set idle_fps=2
      vigil camera set yard mode eco
    """


@click.group(
    cls=LazyGroup,
    entries=(
        CommandEntry("list", "fleet.nodes.cli_list:list_", "List the nodes, and how each is."),
        CommandEntry("show", "fleet.nodes.cli_list:show", "Show one node: machine, processes, problems."),
        CommandEntry(
            "accept", "fleet.nodes.cli_members:accept", "Make a machine that greets a node of the site.", "fleet"
        ),
        CommandEntry("adopt", "fleet.nodes.cli_adopt:adopt", "Take in a machine that belongs to no site yet.", "fleet"),
        CommandEntry("rename", "fleet.nodes.cli_rename:rename", "Give a node another name.", "fleet"),
        CommandEntry(
            "remove", "fleet.nodes.cli_members:remove", "Take a node out of the site, and shut it out.", "fleet"
        ),
        CommandEntry("update", "fleet.updates.cli:update", "Give nodes another version of Vigil.", "fleet"),
        CommandEntry("drain", "fleet.nodes.cli_orders:drain", "Stop what runs on a node, in order."),
        CommandEntry("resume", "fleet.nodes.cli_orders:resume", "Let a drained node run again."),
        CommandEntry("restart", "fleet.nodes.cli_orders:restart", "Start a node's processes again."),
        CommandEntry("ping", "fleet.nodes.cli_orders:ping", "Measure how long a node takes to answer."),
        CommandEntry("logs", "fleet.nodes.cli_orders:logs", "Print the logs of a node's processes."),
        CommandEntry("run", "fleet.agent.cli:run", "Run what the site asks of this machine."),
    ),
)
def node() -> None:
    """The site's nodes: the machines that run its processes.

    \b
    Examples:
      vigil node list
      vigil node logs porch -f
      vigil node run                               on the node itself
    """


@click.group(
    cls=LazyGroup,
    entries=(
        CommandEntry("init", "fleet.registry.cli:init", "Make the folder.", "fleet"),
        CommandEntry("sync", "fleet.registry.cli:sync", "Let the bus say what the folder says, now.", "fleet"),
        CommandEntry("diff", "fleet.registry.cli:diff", "Show where folder and bus differ.", "fleet"),
        CommandEntry("import", "fleet.registry.import_cli:import_", "Take over cameras of another system.", "fleet"),
        CommandEntry("export", "fleet.registry.cli:export", "Write all of it as one document.", "fleet"),
    ),
)
def registry() -> None:
    """The registry: a folder with one YAML file for each camera and node, which is the truth of the site.

    \b
    Examples:
      vigil registry init
      vigil registry diff
      vigil registry sync
    """
