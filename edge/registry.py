"""The site's word on a camera, laid over the node's own settings. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from broker.camera_documents import lay_over
from broker.messages import CameraDocument
from config import ConfigError
from config.cameras import CameraSettings
from config.logins import with_login
from config.registry import Login
from config.secrets import mask_uri
from edge.uris import parse_source

__all__ = ["apply_document"]


def apply_document(
    name: str, document: CameraDocument, own: CameraSettings | None, login: Login | None = None
) -> CameraSettings:
    """A camera's settings as the site wants them.

    Args:
        name: the camera's name.
        document: what the site says; it has no credentials.
        own: what the node's own settings say of the camera; None where they do not name it.
        login: that the site has sent for it; None where it has none.

    Raises:
        ConfigError: something in the document cannot be used; names the field and the cure.
    """
    settings = lay_over(name, document, own, _source(document.source, own))
    for field, uri in (("source", settings.source), ("sub_source", settings.sub_source)):
        try:
            if uri is not None:
                parse_source(uri)
        except ConfigError as error:
            raise ConfigError(error.message, field=f"cameras.{name}.{field}") from None
    return settings if login is None else _logged_in(settings, login)


def _logged_in(settings: CameraSettings, login: Login) -> CameraSettings:
    sub = settings.sub_source
    logged_in = {"source": with_login(settings.source, login), "sub_source": sub and with_login(sub, login)}
    return settings.model_copy(update=logged_in)


def _source(source: str, own: CameraSettings | None) -> str:
    """Where its pictures come from, with the login that the node's own settings have for the same place."""
    if own is None:
        return source
    if source in ("", mask_uri(own.source)):
        return own.source
    new, known = urlsplit(source), urlsplit(own.source)
    login, at, place = known.netloc.rpartition("@")
    if at and "@" not in new.netloc and (new.scheme, new.netloc) == (known.scheme, place):
        return urlunsplit(new._replace(netloc=f"{login}@{new.netloc}"))
    return source
