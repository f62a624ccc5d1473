from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from console.cli import COMMANDS, CommandEntry, cli, main

NAMES = [entry.name for entry in COMMANDS]


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vigil", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back at the end, as the mode of new files
    monkeypatch.setattr(os, "umask", lambda mask: mask)
    return main()


def test_the_root_help_lists_every_command_and_the_exit_statuses(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["--help"])
    assert result.exit_code == 0
    lines = result.output.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == NAMES
    assert "Exit status: 0 all well, 1 failed" in result.output


def test_the_root_help_imports_no_component_and_nothing_heavy() -> None:
    code = (
        "import sys; from console.cli import cli; cli.main(['--help'], standalone_mode=False); "
        "heavy = {'structlog', 'pydantic', 'rich', 'yaml', 'numpy', 'asyncio', 'broker', 'edge', 'detector'}; "
        "found = heavy & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--camera", "yard=rtsp://admin:s3cret@h/s"),
        ("up", "--camera", "rtsp://admin:s3cret@h/s"),
        ("edge", "--camera=yard=http://h/?token=s3cret"),
        ("--bus", "mqtt://admin:s3cret@h", "up"),
        ("--bus=mqtt://admin:s3cret@h", "up"),
        ("up", "rtsp://admin:s3cret@h/s"),
        ("up", "--nonsense=rtsp://admin:s3cret@h/s"),
        ("join", "10.0.0.2", "vigil-s3cret" + "x" * 40),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    runner: CliRunner, arguments: tuple[str, ...]
) -> None:
    result = runner.invoke(cli, arguments)
    assert result.exit_code == 2
    assert "s3cret" not in result.output
    assert "seen by every user of this machine (`ps`)" in result.output
    assert "VIGIL_CAMERAS__NAME__SOURCE" in result.output
    assert "VIGIL_BUS__PASSWORD" in result.output


def test_what_nobody_caught_is_printed_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--version") == 0
    error = OSError("cannot open rtsp://admin:s3cret@h/s")
    sys.excepthook(OSError, error, None)
    assert capsys.readouterr().err == "OSError: cannot open rtsp://***@h/s\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_examples(runner: CliRunner, name: str) -> None:
    result = runner.invoke(cli, [name, "--help"])
    assert "\\b" not in result.output, "click's mark of a block that keeps its lines was not understood"
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: cli {name}")
    if name != "broker":
        assert f"vigil {name}" in result.output, "an example"


def test_completion_offers_commands_without_importing_them(runner: CliRunner) -> None:
    completer = click.shell_completion.ShellComplete(cli, {}, "vigil", "_VIGIL_COMPLETE")
    assert [item.value for item in completer.get_completions([], "co")] == [
        "commands",
        "console",
        "config",
        "completion",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_scripts_call_vigil(runner: CliRunner, shell: str) -> None:
    result = runner.invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_VIGIL_COMPLETE={shell}_complete" in result.output


def test_an_unknown_command_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "fly") == 2
    assert "No such command 'fly'" in capsys.readouterr().err


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("vigil ")


def test_a_wrong_setting_is_one_line_and_status_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--bus", "broker.local", "--site", "a/b", "config", "show") == 78
    error = capsys.readouterr().err
    assert error.startswith("vigil: site: 'a/b' is not a name")
    assert "and 1 more; `vigil config check` prints them all" in error
    assert "Traceback" not in error


@click.command()
def absent_library() -> None:
    raise ModuleNotFoundError("No module named 'confluent_kafka'", name="confluent_kafka")


@click.command()
def broken() -> None:
    raise ModuleNotFoundError("No module named 'bridge.missing'", name="bridge.missing")


@click.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def extra_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        name: CommandEntry(name, f"{__name__}:{name}", "", "bridge")
        for name in ("absent_library", "broken", "interrupted")
    }
    monkeypatch.setattr(cli, "entries", own)


@pytest.mark.usefixtures("extra_commands")
def test_a_missing_extra_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "absent_library") == 1
    assert capsys.readouterr().err == (
        "vigil: `vigil absent_library` needs confluent_kafka, which is not installed: "
        "pip install 'vigil-mesh[bridge]'\n"
    )


@pytest.mark.usefixtures("extra_commands")
def test_a_missing_module_of_ours_is_a_bug_and_shows_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"bridge\.missing"):
        run_main(monkeypatch, "broken")


@pytest.mark.usefixtures("extra_commands")
def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "interrupted") == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_leaves_is_quiet() -> None:
    command = f"{sys.executable} -m console config show | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in {0, 141}, "0 when everything fitted into the pipe before its reader left"
    assert done.stderr == ""
