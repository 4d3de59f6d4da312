"""Who we are to a server, and who it must be to us: bearer tokens and TLS.

A token that was given is sent with every question; one that is found where the WLCG keeps it only to a server that asks
for one (401). Invariant: no token leaves over a line that others can read, and none stands in a message.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from mlaas4hep.client.servers import Address
from mlaas4hep.errors import UserError
from mlaas4hep.tokens import bearer_token, checked_token, expiry_told, may_carry_secrets, token_of_file

_GRID_AUTHORITIES = "/etc/grid-security/certificates"


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS is spoken with.

    Parameters
    ----------
    ca
        File with the authorities that may vouch for a server, beside those of the system and of the grid.
    certificate, key
        Our own, for servers that ask for one; ``key`` may stand in the same file.
    verify
        Whether the server's certificate is looked at. Without that anybody can be the server: for tests alone.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """For connections.

        Raises
        ------
        UserError
            A file cannot be used.
        """
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        if os.path.isdir(_GRID_AUTHORITIES):
            context.load_verify_locations(capath=_GRID_AUTHORITIES)
        self._load(context)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        named = ""
        try:
            if self.ca is not None:
                named = f"authorities in {os.fspath(self.ca)}"
                context.load_verify_locations(cafile=self.ca)
            if self.certificate is not None:
                named = f"certificate {os.fspath(self.certificate)}"
                # A locked key would ask for its password on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"{named}: cannot be used: {error.strerror or error}") from error


class Bearer:
    """The token that questions carry.

    Parameters
    ----------
    addresses
        Where they go.
    token
        Itself.
    token_file
        A file that holds one; read again when a server refuses it, since tokens are renewed.

    Raises
    ------
    UserError
        Both are given, what is given is no token, or it would be sent over a line that others can read.
    """

    def __init__(
        self,
        addresses: Iterable[Address],
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if token is not None and token_file is not None:
            raise UserError("token and token_file are both given; asked for one of them")
        self._file = None if token_file is None else os.fspath(token_file)
        self._fixed = token is not None
        self._token = checked_token(token, "token") if token is not None else None
        if self._file is not None:
            self._token = token_of_file(self._file)
        for address in addresses:
            if self._token is not None and not may_carry_secrets(address.scheme, address.host):
                raise UserError(f"a token is not sent to {address.url}: others could read it; use https")

    def header(self, address: Address) -> str:
        """The line of a question's head; empty where there is no token, or none that may go there."""
        if self._token is None or not may_carry_secrets(address.scheme, address.host):
            return ""
        return f"Authorization: Bearer {self._token}\r\n"

    def another(self, address: Address) -> bool:
        """A server wants a token, or another one: whether there is one that it was not shown."""
        if self._fixed or not may_carry_secrets(address.scheme, address.host):
            return False
        found = token_of_file(self._file) if self._file is not None else bearer_token()
        if found is None or found == self._token:
            return False
        self._token = found
        return True

    def told(self) -> str:
        """Words for a message of a server that would not have us."""
        if self._token is None:
            return "no token was shown: set BEARER_TOKEN, BEARER_TOKEN_FILE, or give one"
        return f"the token that was shown is of no use there{expiry_told(self._token)}"
