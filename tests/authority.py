"""A private certificate authority for one test, made with openssl."""

import subprocess
from pathlib import Path

from tests.conftest import find_service


class Authority:
    """Signs certificates; all its files lie in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._openssl("req", "-x509", *self._new_key(name))

    def sign(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate for these hosts ("DNS:localhost", "IP:127.0.0.1"), and its key."""
        path = self._folder / f"{self._name}-{name}.pem"
        names = ["-addext", f"subjectAltName={','.join(hosts)}"] if hosts else []
        by = ["-CA", str(self.certificate), "-CAkey", str(self._key)]
        self._openssl("req", "-x509", *self._new_key(path.stem), *by, *names)
        return path, path.with_suffix(".key")

    def _new_key(self, stem: str) -> list[str]:
        key, certificate = self._folder / f"{stem}.key", self._folder / f"{stem}.pem"
        return [
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN=test of stream-daemon, {stem}", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ]

    def _openssl(self, *words: str) -> None:
        subprocess.run([find_service("openssl"), *words], check=True, capture_output=True)
