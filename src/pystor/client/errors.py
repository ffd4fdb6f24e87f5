"""What a client is told instead of a blob: the server's errors, mirrored, and those of the way to it.

`str(error)` is one line that says which server said what; it names no password.

    StorError
    ├── MalformedDigest      the name asked for is no SHA-256 (`pystor.errors`)
    └── ClientError          anything that a server, or the way to it, says no with
        ├── NotFound         every server answered that it has no such blob
        ├── Unavailable      nobody knows: servers failed or did not answer, as often as they were asked
        ├── BadContent       what came is not the blob that was asked for; or it is another than was said, on its way in
        ├── Unauthorized     no or wrong credentials
        ├── NoSpace          no replica set of the server has room
        ├── TooLarge         the blob is over the server's limit
        └── Refused          any other answer that asking again does not change
"""

from __future__ import annotations

from typing import Final

from pystor.errors import StorError


class ClientError(StorError):
    """Anything that a server, or the way to it, says no with."""


class NotFound(ClientError):
    """Every server answered that it has no such blob."""


class Unavailable(ClientError):
    """Nobody knows: a server failed or did not answer. `retry_after` is what it asked for, in seconds."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Late(Unavailable):
    """No byte came for as long as one is waited for. To those who catch it, it is an `Unavailable`."""


class BadContent(ClientError):
    """What came is not the blob that was asked for; or what was sent is not what it was said to be."""


class Unauthorized(ClientError):
    """No or wrong credentials."""


class NoSpace(ClientError):
    """No replica set of the server has room."""


class TooLarge(ClientError):
    """The blob is over the server's limit."""


class Refused(ClientError):
    """Any other answer that asking again does not change; `status` is the answer's."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


_KINDS: Final[dict[int, type[ClientError]]] = {
    401: Unauthorized,
    404: NotFound,
    412: BadContent,
    413: TooLarge,
    507: NoSpace,
}
_PASSING: Final = frozenset({408, 425, 429})


def of_answer(origin: str, status: int, body: bytes, retry_after: float) -> ClientError:
    """Tell what an answer that is no success means, in the server's words."""
    said = body.decode(errors="replace").strip()
    text = f"{origin}: {said.splitlines()[0][:300] if said and not said.startswith('<') else f'it answered {status}'}"
    if (kind := _KINDS.get(status)) is not None:
        return kind(text)
    if (
        status in _PASSING or not 400 <= status < 500
    ):  # that it is neither good nor a refusal may be the network's doing
        return Unavailable(text, retry_after)
    return Refused(text, status)


def late(origin: str, timeout: float) -> Late:
    """Tell that no byte came for so many seconds."""
    return Late(f"{origin}: no answer within {timeout:g} s")


def garbled(origin: str, wanted: str, real: str) -> BadContent:
    """Tell that a blob has another SHA-256 than what was wanted."""
    return BadContent(f"{origin}: what came for {wanted} has sha256 {real}")
