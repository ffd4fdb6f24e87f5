"""What obstore says of a failure, in one line for operators."""

from __future__ import annotations

import re
from typing import Final

from pystor.errors import StorageError, StorageFull

NO_SUCH_KEY: Final = "NoSuchKey"

_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})")
_SYSTEM: Final = re.compile(r'message: "([^"]{1,100})"')

_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})
_DENIED: Final = "access is denied: let the access key read, write and list this bucket"

_ADVICE: Final = {
    "AccessDenied": _DENIED,
    "AuthorizationHeaderMalformed": "the request was signed for another region: correct the region",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidAccessKeyId": "the access key is not known there: correct it",
    "InvalidObjectState": "the object is in cold storage, such as Glacier: restore it there first",
    "InvalidRange": "was replaced by a shorter one while it was read",
    "NoSuchBucket": "there is no such bucket: make it, or correct its name",
    "PermanentRedirect": "the bucket is in another region: correct the region or the endpoint",
    "RequestTimeTooSkewed": "the clocks differ too much: set the clock of this machine",
    "SignatureDoesNotMatch": "the secret key is wrong: correct it",
}
"""By the code of an answer, what is wrong and what to do."""

_DEAD: Final = frozenset({"InvalidAccessKeyId", "NoSuchBucket", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
_UNREACHED: Final = re.compile(r"kind: (Connect|Timeout)\b|hyper::Error\(\s*Parse")

_METADATA: Final = re.compile(r"/latest/(api|meta-data)/")
"""The instance's metadata is asked only when no keys were given and none are in the environment."""
_NO_KEYS: Final = "there are no credentials: give access_key and secret_key"

_SYMPTOMS: Final = (
    (re.compile(r"[Cc]redential"), _NO_KEYS),
    (re.compile(r"kind: Timeout|TimedOut"), "no answer in time: see whether the service is up, and the network"),
    (re.compile(r"dns error"), "the name of its host is not known: correct the endpoint"),
    (re.compile(r"\bNotValidForName"), "its certificate is one for another name: correct the endpoint"),
    (
        re.compile(r"InvalidCertificate\(\s*(Expired|NotValidYet)"),
        "its certificate is not valid today: renew it, or set the clock of this machine",
    ),
    (re.compile(r"InvalidCertificate\("), "its certificate is not trusted: install the authority that has signed it"),
    (re.compile(r"InvalidContentType"), "it does not speak TLS: begin the endpoint with http://"),
    (re.compile(r"hyper::Error\(\s*Parse"), "it does not speak HTTP: correct the endpoint"),
)
"""By a trace in what obstore says, what is wrong and what to do."""


def code_of(error: Exception) -> str:
    """Tell the code of the answer, such as `NoSuchBucket`; empty when there was none."""
    found = _CODE.search(_told(error))
    return found[1] if found else ""


def status_of(error: Exception) -> int:
    """Tell the HTTP status of the answer; 0 when there was none."""
    found = _STATUS.search(_told(error))
    return int(found[1]) if found else 0


def is_missing(error: Exception) -> bool:
    """Tell whether the answer was that there is no such object, and nothing less definite than that."""
    # A 404 may come from a proxy, and from a bucket that is gone. A store in memory says it without HTTP.
    return isinstance(error, FileNotFoundError) and (code_of(error) == NO_SUCH_KEY or not status_of(error))


def translate(storage: str, operation: str, error: Exception, secrets: tuple[str, ...]) -> StorageError:
    """Turn what obstore raised into the error of a storage; nothing in `secrets` is in it."""
    reason = " ".join(_reason(error).split())
    for secret in secrets:
        reason = reason.replace(secret, "***")
    full = status_of(error) == 507 or code_of(error) in _FULL
    dead = code_of(error) in _DEAD or (not status_of(error) and bool(_UNREACHED.search(str(error))))
    return (StorageFull if full else StorageError)(storage, operation, reason, dead=dead)


def _reason(error: Exception) -> str:
    status, code = status_of(error), code_of(error)
    if _METADATA.search(_told(error)):
        return _NO_KEYS
    if code in _ADVICE:
        return _ADVICE[code]
    if status == 403:
        return _DENIED
    if status:
        message = _MESSAGE.search(_told(error))
        return f"answered {status} {code or 'without an S3 error code'}{f': {message[1]}' if message else ''}"
    return _of_no_answer(str(error))


def _of_no_answer(text: str) -> str:
    for symptom, reason in _SYMPTOMS:
        if symptom.search(text):
            return reason
    system = _SYSTEM.search(text)
    if system:
        return f"{system[1]}: see whether the service is up, and the endpoint"
    return text.partition("\n")[0][:300]


def _told(error: Exception) -> str:
    return str(error).partition("\n\nDebug source:")[0]
