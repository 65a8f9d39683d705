"""Who may change what the server serves: whoever has the token."""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from service.errors import Unauthenticated, Unsupported

_SCHEME = "bearer "


class Gate:
    """Closed for everybody where there is no token."""

    def __init__(self, token: SecretStr | None) -> None:
        self._token = None if token is None else token.get_secret_value().encode()

    def check(self, authorization: str) -> None:
        """Let the holder of the token pass; `authorization` is the header: Bearer TOKEN (RFC 6750).

        Raises: Unsupported where there is no token; Unauthenticated.
        """
        if self._token is None:
            raise Unsupported(
                "control of models is off; start the server with CONVOY_CONTROL_TOKEN set"
            )
        scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or not hmac.compare_digest(given.encode(), self._token):
            raise Unauthenticated("the metadata needs the control token: authorization: Bearer ...")
