"""Where a bucket is, as one writes it: `s3://bucket/prefix?endpoint=http://host:8333&region=eu-west-1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from pystor.hosts import is_host_of_url

_FORM: Final = "s3://BUCKET, s3://BUCKET/PREFIX or s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION"
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)
_REGION: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_STYLES: Final = {"path": False, "virtual": True}
_KEYS: Final = ("endpoint", "region", "style")

DEFAULT_REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket, and the part of it that is Stor's."""

    bucket: str
    prefix: str = ""
    """Segments between slashes, with none at either end; may be empty."""
    endpoint: str | None = None
    """Scheme, host and port of the service; None is Amazon's, in the region."""
    region: str = DEFAULT_REGION
    virtual_hosted: bool = False
    """Whether the bucket stands in the name of the host, instead of in the path."""

    @property
    def url(self) -> str:
        """What operators call it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __str__(self) -> str:
        return self.url

    def shown(self) -> str:
        """Write it as in a configuration file."""
        options = {"region": self.region, "style": "virtual" if self.virtual_hosted else "path"}
        if self.endpoint is not None:
            options["endpoint"] = self.endpoint
        return f"{self.url}?{urlencode(options)}"


def parse_bucket_url(url: str) -> BucketAddress:
    """Parse the URL of a bucket; raises `ValueError` with one line that says what to write instead.

    `style` is `path` or `virtual`; unless told, buckets at an endpoint of their own stand in the path.
    """
    parts = _split(url)
    options = _options(parts.query)
    endpoint = _endpoint(options["endpoint"]) if "endpoint" in options else None
    region = options.get("region", DEFAULT_REGION)
    style = options.get("style", "path" if endpoint else "virtual")
    if style not in _STYLES:
        raise ValueError(f"the style {style!r} is not known; write path or virtual")
    bucket, prefix = parse_bucket(parts.netloc), parse_prefix(parts.path)
    return BucketAddress(bucket, prefix, endpoint, parse_region(region), _STYLES[style])


def parse_bucket(name: str) -> str:
    """Parse the name of a bucket; raises `ValueError` with one line that says what to write instead."""
    if not _BUCKET.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a bucket: write 3 to 63 letters, digits, dots and hyphens")
    return name


def parse_prefix(path: str) -> str:
    """Parse what stands before the keys, without slashes at its ends; raises `ValueError` as `parse_bucket` does."""
    prefix = path.strip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(f"the prefix {prefix!r} cannot be used: write letters, digits, dots, - and _ between slashes")
    return prefix


def parse_region(name: str) -> str:
    """Parse the name of a region; raises `ValueError` as `parse_bucket` does."""
    if not _REGION.fullmatch(name):
        raise ValueError(f"the region {name!r} is none; write one such as {DEFAULT_REGION}")
    return name


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"a bucket must have the form {_FORM}") from None
    if "@" in parts.netloc:  # the URL is not repeated: there may be a secret in it
        raise ValueError("a bucket's URL must not have credentials in it; give them as access_key and secret_key")
    if parts.scheme != "s3" or not parts.netloc or parts.fragment:
        raise ValueError(f"a bucket must have the form {_FORM}")
    return parts


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    unknown = [name for name in options if name not in _KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no option of a bucket; there are {', '.join(_KEYS)}")
    if len(options) < len(pairs):
        raise ValueError("an option of a bucket is given twice; write it once")
    return options


def _endpoint(text: str) -> str:
    wrong = "the endpoint of a bucket must have the form http://HOST:PORT or https://HOST:PORT, without anything more"
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and is_host_of_url(parts.hostname or "") and parts.port != 0
    except ValueError:
        raise ValueError(wrong) from None
    extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not valid or extra:
        raise ValueError(wrong)
    return f"{parts.scheme}://{parts.netloc}"
