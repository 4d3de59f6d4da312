"""TLS for the server: its certificate, whose certificates clients must show, and new files without a new start.

Invariant: files that do not fit each other change nothing; whoever is connected stays so.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mlaas4hep.errors import UserError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates lie.

    Parameters
    ----------
    certificate, key
        Of the server, in PEM; the certificate with its chain.
    authority
        Clients must show a certificate of these authorities; None asks for none.
    """

    certificate: Path
    key: Path
    authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What a listening socket needs.

        Raises
        ------
        UserError
            A file cannot be read, or the key is not that of the certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.authority)
            except OSError as error:
                raise UserError(f"--tls-client-ca {self.authority}: cannot be used: {error}") from error
        return context

    def reload(self, context: ssl.SSLContext) -> None:
        """Let new connections see what the files hold now; raises as `context` does, and then nothing changed."""
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # An encrypted key would ask for its password on the terminal; there is nobody.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # ssl.SSLError is one
            text = f"--tls-cert {self.certificate} with --tls-key {self.key}: cannot be used: {error}"
            raise UserError(text) from error
