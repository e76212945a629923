"""Secrets come from where they are referred to, and never show up in an error."""

import errno
import os
from pathlib import Path

import pytest

from appliance.config import SecretRef
from appliance.credentials import SECRET_BYTES_MAX, resolve
from appliance.errors import ConfigError, Exit


def failure(secret: SecretRef, environ: dict[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve(secret, "store.password", environ)
    assert caught.value.exit_code == Exit.CONFIG
    assert caught.value.message.startswith("store.password: ")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2\n"),
        (b" hunter2 \r", " hunter2 \r"),
        ("pässwörd\n".encode(), "pässwörd"),
        (b"x" * SECRET_BYTES_MAX, "x" * SECRET_BYTES_MAX),
    ],
)
def test_a_file_holds_the_secret(tmp_path: Path, content: bytes, secret: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(0o644)  # who else may read it is not our business
    assert resolve(SecretRef(file=str(file)), "store.password", {}) == secret


def test_an_environment_variable_holds_the_secret() -> None:
    environ = {"PW": "hunter2\n", "CREDENTIALS_DIRECTORY": "/nowhere"}
    assert resolve(SecretRef(env="PW"), "store.password", environ) == "hunter2"


def test_a_credential_is_a_file_in_systemds_directory(tmp_path: Path) -> None:
    (tmp_path / "mysql").write_text("hunter2\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "mysql": "not this one"}
    assert resolve(SecretRef(cred="mysql"), "store.password", environ) == "hunter2"


def test_without_an_environment_it_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DAEMON_TEST_PW", "hunter2")
    assert resolve(SecretRef(env="STREAM_DAEMON_TEST_PW"), "store.password") == "hunter2"


def test_what_is_missing_is_named_with_the_next_step(tmp_path: Path) -> None:
    missing = failure(SecretRef(file=str(tmp_path / "none")), {})
    assert str(tmp_path / "none") in missing.message
    assert "No such file" in missing.message
    unset = failure(SecretRef(env="PW"), {})
    assert "PW is not set" in unset.message
    assert "EnvironmentFile" in unset.hint
    no_systemd = failure(SecretRef(cred="mysql"), {})
    assert "LoadCredential=mysql:" in no_systemd.hint
    not_there = failure(SecretRef(cred="mysql"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert str(tmp_path / "mysql") in not_there.message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\0", "NUL"),
        (b"hunter2\xff", "not a text"),
        (b"hunter2" * SECRET_BYTES_MAX, "larger than"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    error = failure(SecretRef(file=str(file)), {})
    assert problem in error.message
    assert "hunter2" not in str(error)


def test_an_endless_file_and_a_directory_are_errors_too(tmp_path: Path) -> None:
    assert "larger than" in failure(SecretRef(file="/dev/zero"), {}).message
    assert "directory" in failure(SecretRef(file=str(tmp_path)), {}).message


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # root, who may run this, is never refused by the kernel
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", refuse)
    error = failure(SecretRef(file="/etc/password"), {})
    assert "/etc/password: Permission denied" in error.message
    assert "chmod 600" in error.hint


def test_an_empty_variable_is_an_error() -> None:
    assert "PW is empty" in failure(SecretRef(env="PW"), {"PW": ""}).message
