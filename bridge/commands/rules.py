"""Who may command what. Pure; what no rule allows is refused."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.commands.messages import Request
from config.outside import CommandRule

__all__ = ["refusal_of"]


def refusal_of(request: Request, rules: Sequence[CommandRule]) -> str:
    """Why a command is not allowed, with the rule that would allow it; empty where it is."""
    if any(_allows(rule, request) for rule in rules):
        return ""
    said = f"from {request.source!r} " if request.source else ""
    return (
        f"not allowed: no rule of bridge.kafka.commands.allow lets it {said}pass; this one would: {_rule_for(request)}"
    )


def _allows(rule: CommandRule, request: Request) -> bool:
    content = request.content
    if content.camera:
        names, name, what = rule.cameras, content.camera, content.property
    else:
        names, name, what = rule.nodes, request.origin, content.name
    return _has(rule.commands, what) and _has(names, name) and rule.source in ("*", request.source)


def _has(allowed: Sequence[str], name: str) -> bool:
    return "*" in allowed or name in allowed


def _rule_for(request: Request) -> str:
    content = request.content
    source = f'source: "{request.source}", ' if request.source else ""
    if content.camera:
        return f"{{{source}cameras: [{content.camera}], commands: [{content.property}]}}"
    return f"{{{source}cameras: [], nodes: [{request.origin}], commands: [{content.name}]}}"
