"""The `vigil` command: its options, its commands by name, and how every error is told.

A component's commands are imported when they are called, so that `vigil --help` is quick and a machine with one
extra installed still runs what that extra is for.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from console.lazy import CommandEntry, LazyGroup

__all__ = ["COMMANDS", "CommandEntry", "cli", "main"]

_GARBAGE_OBJECTS = 20_000
"""New objects after which garbage is looked for. At Python's 700 an eighth of a camera node's start goes there: what is
imported is no garbage. In memory it makes no difference that can be seen."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
EXIT_PIPE_CLOSED = 141
"""128 + SIGPIPE: the reader left, as `head` does."""


COMMANDS: tuple[CommandEntry, ...] = (
    CommandEntry("up", "console.up:up", "Run the whole mesh on this machine: the main job.", "console"),
    CommandEntry("edge", "console.joined:edge", "Watch this node's cameras: motion and frames onto the bus.", "edge"),
    CommandEntry("mock", "edge.mock_cli:mock", "Be an IP camera, or several, and break as told.", "edge"),
    CommandEntry("broker", "broker.cli:broker", "Run an MQTT broker.", "embedded"),
    CommandEntry("detector", "detector.cli:detector", "Score frames, raise escalations.", "detector"),
    CommandEntry("rules", "detector.rules_cli:rules", "List the rules, and try them on what was recorded.", "detector"),
    CommandEntry("models", "detector.models_cli:models", "Fetch models, and say which the workers use.", "detector"),
    CommandEntry("detect", "detector.detect_cli:detect", "See what a worker sees in a picture or a video.", "detector"),
    CommandEntry("bench", "detector.bench_cli:bench", "Measure how fast this machine is.", "detector"),
    CommandEntry("workers", "console.workers_cli:workers", "Show which worker scores which camera, and at what rate."),
    CommandEntry("bridge", "bridge.cli:bridge", "Carry escalations and events into the journal or Kafka.", "bridge"),
    CommandEntry(
        "homeassistant", "bridge.homeassistant.cli:homeassistant", "Let Home Assistant find every camera and node."
    ),
    CommandEntry("bridges", "bridge.bridges_cli:bridges", "Show which bridge has which part of the cameras."),
    CommandEntry("commands", "bridge.commands.cli:commands", "Take commands out of Kafka, and answer them.", "bridge"),
    CommandEntry("console", "console.web:console", "Serve the web page.", "console"),
    CommandEntry("metrics", "broker.metrics_cli:metrics", "List where Prometheus scrapes this machine's roles."),
    CommandEntry("topics", "broker.cli:topics", "Print every topic of the bus."),
    CommandEntry("watch", "console.watch:watch", "Follow the bus live."),
    CommandEntry("camera", "console.groups:camera", "Add cameras, look at them, tell them how to watch."),
    CommandEntry("node", "console.groups:node", "Run a machine of the site, look at it, keep it in order."),
    CommandEntry("service", "fleet.service.cli:service", "Let systemd run Vigil on this machine."),
    CommandEntry("escalations", "bridge.journal_cli:escalations", "List the escalations in the journal."),
    CommandEntry("events", "bridge.journal_cli:events", "List the events (motion, track) in the journal."),
    CommandEntry("export", "bridge.journal_cli:export", "Write what the journal has into JSON lines or Parquet."),
    CommandEntry("audit", "bridge.cli:audit", "Prove that no escalation or event is missing or repeated."),
    CommandEntry(
        "dead-letters", "bridge.dead_letters_cli:dead_letters", "Look at what Kafka did not take, and send it again."
    ),
    CommandEntry("outbox", "broker.outbox_cli:outbox", "Look into what is not yet delivered, send it, save it."),
    CommandEntry("drill", "console.drill:drill", "Raise fake alarms and see whether they arrive."),
    CommandEntry("alarm", "console.alarm_cli:alarm", "Raise a fake alarm of one of the site's rules."),
    CommandEntry("chaos", "console.chaos.cli:chaos", "Break a small mesh in every way and count what is lost."),
    CommandEntry("footage", "edge.footage_cli:footage", "List, cut and play what this node recorded.", "edge"),
    CommandEntry("motion", "edge.motion.cli:motion", "Try out motion detection on a camera or a video.", "edge"),
    CommandEntry("config", "console.config_cli:config", "Check and show the settings."),
    CommandEntry("doctor", "broker.cli:doctor", "Look for what is wrong with this machine's set-up."),
    CommandEntry("registry", "console.groups:registry", "The folder in which cameras and nodes are written down."),
    CommandEntry(
        "schedule", "fleet.schedules.cli:schedule", "Say what is done at which times, and do it now.", "fleet"
    ),
    CommandEntry("fleet", "fleet.cli:fleet", "Keep cameras and nodes in order, as the registry says.", "fleet"),
    CommandEntry("flash", "fleet.flash.cli:flash", "Make the card of a node.", "fleet"),
    CommandEntry("bundle", "fleet.bundle.cli:bundle", "Put all that a node installs into one file.", "fleet"),
    CommandEntry("discover", "fleet.discovery.cli:discover", "Find cameras and nodes in the network.", "fleet"),
    CommandEntry("ca", "fleet.enrolment.cli_ca:ca", "Make and run the site's certificate authority.", "fleet"),
    CommandEntry("enrol", "fleet.enrolment.cli_enrol:enrol", "Let a node or a person onto the secure bus.", "fleet"),
    CommandEntry("join", "fleet.enrolment.cli_node:join", "Join the secure bus with a token.", "fleet"),
    CommandEntry("renew", "fleet.enrolment.cli_node:renew", "Renew this machine's certificates.", "fleet"),
    CommandEntry("grant", "fleet.enrolment.cli_members:grant", "Change what a member may do.", "fleet"),
    CommandEntry("revoke", "fleet.enrolment.cli_members:revoke", "Shut a node or a person out.", "fleet"),
    CommandEntry("members", "fleet.enrolment.cli_members:members", "List who belongs to the site.", "fleet"),
    CommandEntry("completion", "console.completion:completion", "Print the completion script of a shell."),
)

_EXTRAS_OF_LIBRARY: dict[str, tuple[str, ...]] = {
    "PIL": ("edge",),
    "ai_edge_litert": ("tflite",),
    "amqtt": ("embedded",),
    "apscheduler": ("fleet",),
    "confluent_kafka": ("bridge",),
    "cryptography": ("fleet",),
    "cv2": ("detector",),
    "fastapi": ("console",),
    "numpy": ("edge", "detector", "tflite"),
    "obstore": ("store",),
    "onnxruntime": ("detector",),
    "opentelemetry": ("telemetry",),
    "packaging": ("fleet",),
    "prometheus_client": ("telemetry",),
    "pyarrow": ("parquet",),
    "starlette": ("console",),
    "uvicorn": ("console",),
    "websockets": ("console",),
}


class RefusalError(Exception):
    """An error told in one line on standard error: ``vigil: what, where, and the cure``."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RootGroup(LazyGroup):
    """The root: refuses secrets on the command line, and tells every error in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a secret on the command line, before anything repeats it; then read the root's options."""
        _refuse_secrets(args)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; where a library of its extra is missing, say which."""
        try:
            return super().get_command(ctx, cmd_name)
        except ModuleNotFoundError as error:
            _tell_missing(error, cmd_name)
            raise

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run a command; what it raises on purpose becomes one line and an exit status."""
        # Here, not above: structlog takes longer to import than everything that `vigil --help` needs.
        from config import VigilError

        try:
            return super().invoke(ctx)
        except VigilError as error:
            message = "\n".join([str(error), *getattr(error, "__notes__", [])])
            raise RefusalError(message, error.exit_code) from error
        except ModuleNotFoundError as error:
            _tell_missing(error, ctx.invoked_subcommand)
            raise
        except BrokenPipeError:
            # What is still buffered has no reader; without this the interpreter complains about it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_PIPE_CLOSED) from None


def _refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse an argument with a login or a token in it: every user of the machine reads it with `ps`.

    An argument, not an option: what no command takes is refused in the same words, and not repeated.

    Raises:
        click.UsageError: there is one; the message says where to put it instead.
    """
    for argument in arguments:
        if any(sign in argument for sign in ("@", "=", "%", "vigil-")):
            # Only then, as with every import here: `vigil --help` needs none.
            from config.secrets import has_secret

            # The name of an option is no secret: --token=... is for the command that has such an option to judge.
            if has_secret(argument.partition("=")[2] if argument.startswith("-") else argument):
                raise click.UsageError(
                    "a password or token on the command line is seen by every user of this machine (`ps`); put a "
                    "camera's source into the site file or VIGIL_CAMERAS__NAME__SOURCE, the broker's login into "
                    "bus.username and VIGIL_BUS__PASSWORD; `vigil camera add` asks for a source, `vigil join` for its "
                    "token"
                )


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what nobody caught, without what is secret in it."""
    from config.secrets import mask

    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))


def _tell_missing(error: ModuleNotFoundError, command: str | None) -> None:
    """Refuse in words when it is a library of an extra that is missing; return when it is anything else."""
    library = (error.name or "").partition(".")[0]
    extras = _EXTRAS_OF_LIBRARY.get(library)
    if extras is None:
        return
    entry = cli.entries.get(command or "")
    own = "" if entry is None else entry.extra
    cure = f"pip install 'vigil-mesh[{own if own in extras else extras[0]}]'"
    raise RefusalError(f"`vigil {command}` needs {library}, which is not installed: {cure}", 1) from error


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    try:
        version = importlib.metadata.version("vigil-mesh")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed; run from a checkout)"
    click.echo(f"vigil {version}")
    ctx.exit()


@click.group(
    cls=RootGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="VIGIL_CONFIG",
    help="Site file (YAML); default ./vigil.yaml where it exists. Also VIGIL_CONFIG.",
)
@click.option("--bus", metavar="URL", help="The broker: mqtt://HOST:PORT or mqtts://HOST:PORT.")
@click.option("--site", metavar="NAME", help="The site's name, a level of every topic.")
@click.option("--node", metavar="NAME", help="This machine's name; default the host name.")
@click.option(
    "--state",
    "state_dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where outboxes, the journal and logs are kept.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level logged.")
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), help="How logs are written.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def cli(
    ctx: click.Context,
    *,
    file: Path | None,
    bus: str | None,
    site: str | None,
    node: str | None,
    state_dir: Path | None,
    log_level: str | None,
    log_format: str | None,
    until_stdin_closes: bool,
) -> None:
    """Vigil: cameras become motion events, scores and escalations on an MQTT bus, and nothing is lost on the way.

    \b
    vigil up                                     everything on this machine, with a synthetic camera
    vigil up --camera yard=file:yard.mp4         the same with a video
    vigil watch --kind escalation                what is raised, as it comes
    vigil COMMAND --help                         options and examples of a command

    A setting comes from a flag, else from the environment (VIGIL_BUS__URL for bus.url), else from the site file, else
    from its default; `vigil config show` prints those in force.

    \b
    Exit status: 0 all well, 1 failed or something is missing, 2 wrong usage, 69 a service is away,
    78 wrong configuration, 130 interrupted.
    """
    from console.loading import SettingsLoader, leave_with_stdin

    if until_stdin_closes:
        leave_with_stdin()
    if "NO_COLOR" in os.environ:
        ctx.color = False
    log = {"level": log_level, "style": log_format}
    flags = {"bus": {"url": bus}, "site": site, "node": node, "state_dir": state_dir, "log": log}
    ctx.obj = SettingsLoader(file, flags)


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit status.
    """
    # What Vigil writes (outboxes, the journal, logs) shows what cameras see: folders 0700, files 0600.
    os.umask(0o077)
    gc.set_threshold(_GARBAGE_OBJECTS)
    sys.excepthook = _tell_uncaught
    try:
        status = cli.main(prog_name="vigil", standalone_mode=False)
    except RefusalError as refusal:
        click.echo(f"vigil: {refusal}", err=True)
        return refusal.status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else 0
