"""Reading the settings: the site file, the environment and the flags, with errors that name file and line.

An error shows the wrong value, but never a login, a token, or anything that stands under a secret name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, Tag, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from config.cameras import CameraSettings
from config.errors import ConfigError
from config.rules import OnTheGroundRule, RuleSettings
from config.secrets import has_secret, is_readable_by_others, is_secret_name, mask_uri
from config.section import Section
from config.settings import Settings

__all__ = [
    "check_section",
    "check_settings",
    "explain_camera",
    "explain_unknown_zones",
    "explain_yaml",
    "exposes_secrets",
    "layered",
    "load_settings",
    "secrets_in",
    "variable_of",
]

S = TypeVar("S", bound=Section)


def load_settings(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        file: the site file (YAML), or None for none.
        overrides: what the command line's flags say, nested like the settings.

    Raises:
        ConfigError: the first thing that is wrong, with field, file and line.
    """
    settings, errors = check_settings(file, overrides)
    if settings is None:
        raise errors[0]
    return settings


def check_settings(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Settings | None, list[ConfigError]]:
    """Read the settings and collect everything that is wrong with them.

    Returns:
        The settings and no errors, or None and at least one error.
    """
    try:
        root = _parse(file) if file is not None else None
        document = layered(_construct(root, file), _read_environment())
    except ConfigError as error:
        return None, [error]
    try:
        settings = Settings.model_validate(layered(document, overrides or {}))
    except ValidationError as error:
        return None, [_explain(details, root, file) for details in error.errors(include_url=False)]
    errors = [_unknown_zone(rule, field, zone, root, file) for rule, field, zone in _unknown_zones(settings)]
    for name, camera in settings.cameras.items():
        errors += _own_unknown_zones(camera, ["cameras", name], root, file)
    return (None, errors) if errors else (settings, [])


def check_section(
    kind: type[S], content: Mapping[str, Any], *, text: str, file: Path
) -> tuple[S | None, list[ConfigError]]:
    """Read a part of the settings that has a file of its own, and collect everything that is wrong with it.

    Args:
        kind: the part.
        content: what the file says.
        text: the file itself, for the lines of errors; YAML.
        file: its name.

    Returns:
        The part and no errors, or None and at least one error.
    """
    root = _compose(text)
    try:
        return kind.model_validate(content), []
    except ValidationError as error:
        return None, [_explain(details, root, file, kind) for details in error.errors(include_url=False)]


def explain_unknown_zones(camera: CameraSettings, *, text: str, file: Path) -> list[ConfigError]:
    """Rules of one camera, in a file of its own, that name zones which it does not have."""
    return _own_unknown_zones(camera, [], _compose(text), file)


def _compose(text: str) -> yaml.Node | None:
    """The text's nodes, for their lines. Where PyYAML was built with it, libyaml reads ten times as fast."""
    return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _own_unknown_zones(
    camera: CameraSettings, place: Sequence[str], root: yaml.Node | None, file: Path | None
) -> list[ConfigError]:
    known = _zones_to_name(camera)
    errors = []
    for name, rule in camera.rules.items():
        for field, zone in _named_zones(rule):
            if zone not in known:
                location = [*place, "rules", name, field]
                message = f"this camera has no zone {zone!r}: draw it (`zones.{zone}`), or name one that it has"
                line = _line_of(root, location) if root is not None else None
                errors.append(ConfigError(message, field=".".join(location), file=file, line=line))
    return errors


def _zones_to_name(camera: CameraSettings) -> set[str]:
    return {zone for zone, about in camera.zones.items() if about.kind == "include"}


def _named_zones(rule: RuleSettings) -> Iterator[tuple[str, str]]:
    """The zones that a rule names, each with the setting that does."""
    yield from (("zones", zone) for zone in rule.zones)
    if isinstance(rule, OnTheGroundRule):
        yield from (("beds", zone) for zone in rule.beds)


def _unknown_zones(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Rules whose zones no camera has: the rule's name, its setting, and the zone.

    A camera that the site file does not name may have any zone: the site's registry says.
    """
    for name, rule in settings.detector.rules.items():
        watched = rule.cameras or tuple(settings.cameras)
        if not watched or any(camera not in settings.cameras for camera in watched):
            continue
        known = {zone for camera in watched for zone in _zones_to_name(settings.cameras[camera])}
        yield from ((name, field, zone) for field, zone in _named_zones(rule) if zone not in known)


def _unknown_zone(rule: str, field: str, zone: str, root: yaml.Node | None, file: Path | None) -> ConfigError:
    location = ["detector", "rules", rule, field]
    return ConfigError(
        f"no camera that this rule watches has a zone {zone!r}: draw it (`cameras.NAME.zones.{zone}`), or name the "
        "camera of the site's registry that has it in the rule's `cameras`",
        field=".".join(location),
        file=file,
        line=_line_of(root, location) if root is not None else None,
    )


def explain_camera(name: str, error: ValidationError) -> list[ConfigError]:
    """Everything that is wrong with settings of one camera that did not come from a site file."""
    errors = error.errors(include_url=False)
    return [_explain({**details, "loc": ("cameras", name, *details["loc"])}, None, None) for details in errors]


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One nested mapping of two; where both have a value, `above` holds."""
    together = dict(below)
    for key, value in above.items():
        lower = together.get(key)
        if isinstance(lower, Mapping) and isinstance(value, Mapping):
            together[key] = layered(lower, value)
        else:
            together[key] = value
    return together


def _read_environment() -> dict[str, Any]:
    """The settings in the environment, nested: ``VIGIL_BUS__URL`` is ``bus.url``."""
    # It looks at the model's fields only; `Settings` itself reads no environment, so that a test can make one.
    model = cast("type[BaseSettings]", Settings)
    try:
        return EnvSettingsSource(model, env_prefix="VIGIL_", env_nested_delimiter="__")()
    except SettingsError as error:
        # Raised for a variable of a whole section; its text names the field, its cause has the value.
        raise ConfigError(f"{error}: give each setting a variable of its own, such as VIGIL_BUS__URL") from None


def variable_of(place: Sequence[str]) -> str:
    """The variable of the environment that a setting is read from."""
    return f"VIGIL_{'__'.join(place)}".upper()


def secrets_in(section: BaseModel, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The passwords and the like that the settings hold, by place."""
    found: dict[tuple[str, ...], str] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SecretStr):
            found[*place, name] = value.get_secret_value()
        elif isinstance(value, BaseModel):
            found |= secrets_in(value, (*place, name))
    return found


def exposes_secrets(file: Path) -> bool:
    """Whether a site file holds a password or a token, and every user of this machine may read it."""
    if not is_readable_by_others(file):
        return False
    try:
        root = _parse(file)
    except ConfigError:
        return False
    return root is not None and _holds_secret(root)


def _holds_secret(node: yaml.Node) -> bool:
    if isinstance(node, yaml.MappingNode):
        return any(
            _holds_secret(value) or (is_secret_name(str(key.value)) and value.value) for key, value in node.value
        )
    if isinstance(node, yaml.SequenceNode):
        return any(_holds_secret(item) for item in node.value)
    return has_secret(node.value)


def _parse(file: Path) -> yaml.Node | None:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file; give another with --config", file=file) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise explain_yaml(error, file) from None


def _construct(root: yaml.Node | None, file: Path | None) -> dict[str, Any]:
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("the site file must be a mapping such as 'site: home'", file=file, line=1)
    loader = yaml.SafeLoader("")
    try:
        return dict(loader.construct_document(root))
    except yaml.YAMLError as error:
        raise explain_yaml(error, file) from None


def explain_yaml(error: Exception, file: Path | None) -> ConfigError:
    """The error without the line that it quotes: that may be a password's, whose first letter YAML took for its own."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read as text"
    if any(word in problem for word in ("alias", "anchor", "tag")):
        problem = "a value that begins with *, & or ! needs quotes around it"
    return ConfigError(f"not valid YAML: {problem}", file=file, line=mark.line + 1 if mark else None)


def _explain(
    details: ErrorDetails, root: yaml.Node | None, file: Path | None, whole: type[Section] = Settings
) -> ConfigError:
    place = [str(part) for part in details["loc"] if part != "[key]"]
    location, known = _found_at(place, whole)
    line = _line_of(root, location) if root is not None else None
    field = ".".join(mask_uri(part) for part in location) or ("the settings" if whole is Settings else None)
    message = _reason(details, location, known)
    if line is None and whole is not Settings:  # it is the file that lacks something, or all of it does not fit
        return ConfigError(message, field=field, file=file)
    if line is None:
        return ConfigError(f"{message} (from a flag or the environment)" if file else message, field=field)
    return ConfigError(message, field=field, file=file, line=line)


def _reason(details: ErrorDetails, location: Sequence[str], known: Sequence[str]) -> str:
    if details["type"] == "union_tag_invalid":
        return f"there is no kind {details['ctx']['tag']!r}; there are {', '.join(known)}"
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key; {hint}"
    message = details["msg"].removeprefix("Value error, ")
    value = details.get("input")
    if not isinstance(value, str | int | float | bool) or any(is_secret_name(part) for part in location):
        return message
    if repr(value) in message:
        return message
    return f"{message}, not {mask_uri(value) if isinstance(value, str) else value!r}"


def _found_at(place: Sequence[str], whole: type[Section]) -> tuple[list[str], list[str]]:
    """Where something stands in the site file, and what might stand there.

    Args:
        place: as the model's errors say it: behind a section of one of several kinds comes its kind.
        whole: what the file as a whole is.

    Returns:
        The place without kinds; and the settings of the section around it in order of the alphabet or, where a kind is
        wanted, the kinds.
    """
    inside: object = whole
    around: object = None
    location: list[str] = []
    for part in place:
        kinds = _kinds(inside)
        if part in kinds:
            inside = kinds[part]
            continue
        location.append(part)
        around, inside = inside, _below(inside, part)
    if kinds := _kinds(inside):
        return location, list(kinds)
    return location, sorted(around.model_fields) if _is_section(around) else []


def _below(inside: object, part: str) -> object:
    """What a part of a section, mapping or list may be."""
    if _is_section(inside):
        field = inside.model_fields.get(part)
        if field is None:
            return None
        return _inside(field.annotation)
    if inside is None:
        return None
    annotation = get_args(inside)[1 if get_origin(inside) is dict else 0]
    return annotation if _kinds(annotation) else _inside(annotation)


def _kinds(annotation: object) -> dict[str, object]:
    """The sections of a setting that is one of several kinds, by kind; none for any other."""
    if get_origin(annotation) is not Annotated:
        return {}
    members = get_args(get_args(annotation)[0])
    tagged = [get_args(member) for member in members if get_origin(member) is Annotated]
    return {part.tag: section for section, *about in tagged for part in about if isinstance(part, Tag)}


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inside(annotation: object) -> object:
    """The section, mapping or list that a type is, or may be; None where it is none."""
    options = (annotation, *get_args(annotation))
    return next((one for one in options if _is_section(one) or get_origin(one) in (dict, list, tuple)), None)


def _line_of(node: yaml.Node, location: Sequence[str]) -> int | None:
    """The 1-based line of the deepest part of `location` that stands in the document; None when none does."""
    line: int | None = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line
