"""Secrets: from the reference in the configuration to the text itself.

Read when a connection is first made ready, never written anywhere, never in a message: what
goes wrong is told by the reference. One newline at the end, which every editor leaves there,
isn't part of the secret. Who may read the file is the administrator's business.
"""

import os
from collections import ChainMap
from collections.abc import Mapping

from appliance.config import SecretRef
from appliance.errors import ConfigError

SECRET_BYTES_MAX = 64 * 1024  # a password, or a token; and an end to /dev/zero


def resolve(secret: SecretRef, key: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret that `secret` refers to; `key` names it in errors ("store.password").

    Raises:
        ConfigError: it isn't there, can't be read, or isn't a text; says what to do.
    """
    if secret.env is not None:
        text = _from_environment(secret.env, key, environ)
        what = f"the environment variable {secret.env}"
    else:
        path = secret.file or _credential_path(secret.cred or "", key, environ)
        text = _from_file(path, key)
        what = path
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if not text or "\0" in text:
        problem = "holds a NUL byte" if text else "is empty"
        raise ConfigError(f"{key}: {what} {problem}", "put the secret there, on one line")
    return text


class Keyring:
    """The secrets of an instance, also after their variables were taken out of the environment.

    variables: names of those that held some.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._kept: dict[str, str] = {}

    @property
    def variables(self) -> list[str]:
        """Environment variables that hold secrets, or held them."""
        return list(self._kept)

    def resolve(self, references: Mapping[str, SecretRef | None]) -> dict[str, str | None]:
        """The secrets, by the keys of their references.

        Raises:
            ConfigError: as the function of that name.
        """
        for reference in references.values():
            name = reference.env if reference else None
            if name is not None and name in self._environ:
                self._kept[name] = self._environ[name]
        environ = ChainMap(self._kept, dict(self._environ))
        return {
            key: resolve(reference, key, environ) if reference else None
            for key, reference in references.items()
        }


def _from_environment(name: str, key: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigError(
            f"{key}: the environment variable {name} is not set",
            f"export {name} before the start, or in the unit: EnvironmentFile=/path/to/it",
        )
    return environ[name]


def _credential_path(name: str, key: str, environ: Mapping[str, str]) -> str:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigError(
            f"{key}: there is no systemd credential {name}, $CREDENTIALS_DIRECTORY is not set",
            f"start by systemd with LoadCredential={name}:/path/to/it in the unit, "
            'or write { file = "/path/to/it" }; for a command beside the service, as root: '
            "CREDENTIALS_DIRECTORY=/run/credentials/stream-daemon.service stream-daemon …",
        )
    return os.path.join(directory, name)


def _from_file(path: str, key: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}", _hint(error)) from error
    if len(content) > SECRET_BYTES_MAX:
        raise ConfigError(
            f"{key}: {path} is larger than {SECRET_BYTES_MAX} bytes",
            "name a file that holds nothing but the secret",
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"{key}: {path} is not a text in UTF-8",
            "name a file that holds nothing but the secret",
        ) from None


def _hint(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "write the secret into it, readable only by the user that runs stream-daemon"
    if isinstance(error, PermissionError):
        return "make it readable for the user that runs stream-daemon (chown, chmod 600)"
    return "name a file that holds nothing but the secret"
