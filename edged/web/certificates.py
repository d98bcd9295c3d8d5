"""TLS with the certificates that are on the disk now: each handshake looks whether they have changed."""

import ssl
from pathlib import Path

import structlog


class Certificates:
    """The files of a TLS server: its certificate, its key, and who signs those of clients."""

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None) -> None:
        """Reads them.

        Raises:
            OSError: or ssl.SSLError; they cannot be used.
        """
        self._files = (cert, key, client_ca)
        self._seen = self._look()
        self._newest = self._read()
        self.context = self._newest
        """For the server, as long as it runs."""
        self.context.sni_callback = self._renew  # it is called for every handshake, whether a name is asked for or not

    def _renew(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._newest = self._read()
            except (OSError, ssl.SSLError) as error:  # half of them may have been written: the rest is a change too
                structlog.get_logger().error("TLS files cannot be read again; those before stay", error=str(error))
            else:
                structlog.get_logger().info("TLS files were read again", tls_cert=str(self._files[0]))
        connection.context = self._newest

    def _read(self) -> ssl.SSLContext:
        cert, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key, password=lambda: "")  # nobody is there to be asked for one
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [None if file is None else _fingerprint(file) for file in self._files]


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
