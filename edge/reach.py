"""Why a camera in the network cannot be reached: GStreamer says only that it could not."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["why_unreachable"]

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Source: RFC 7826, section 22.14.4; RFC 9110, section 4.2."""


def why_unreachable(location: str, *, tls_verified: bool, ca_file: Path | None, timeout_s: float) -> str | None:
    """Try to connect, and say what is in the way; None when nothing is.

    Args:
        location: a URI of the camera without its login.
        tls_verified: whether its certificate must be right.
        ca_file: who may have signed it; None: whom this machine trusts.
        timeout_s: for each step.
    """
    parts = urlsplit(location)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            if parts.scheme in ("rtsps", "https") and tls_verified:
                trust = ssl.create_default_context(cafile=ca_file)
                with trust.wrap_socket(connection, server_hostname=host):
                    pass
    except ssl.SSLCertVerificationError as error:
        return (
            f"its certificate is not trusted ({error.verify_message}); name the file that vouches for it behind the "
            "source, as #ca=FILE, or do not check it, with #tls=insecure"
        )
    except ssl.SSLError as error:
        return f"port {port} speaks no TLS ({error.reason}); write {parts.scheme[:-1]}:// or give another port"
    except socket.gaierror:
        return f"the name {host} is not known in this network; check it, or give the camera's address"
    except ConnectionRefusedError:
        return f"{host} is there, but has nothing at port {port}; check the port, and that the camera has started"
    except OSError as error:
        return f"{host} does not answer ({error.strerror or error}); check its power, its cable and its address"
    return None
