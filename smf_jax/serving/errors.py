"""Errors as clients of OpenAI's interface expect them."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that is refused: its status, what is amiss, and the field to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.code = status, message, field, code
        self.headers = headers or {}

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        told = {"message": self.message, "type": kinds.get(self.status, kind)}
        return {"error": {**told, "param": self.field, "code": self.code}}


def wrong(field: str, value: object, expected: str) -> RequestError:
    """A field that holds something else than was expected."""
    return RequestError(400, f"{field}={str(value)[:80]!r}: expected {expected}", field)
