"""The configuration: what is read, what is refused and how, and that the reference documents every key."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pystor.config import (
    MASK,
    Amqp,
    Credentials,
    Key,
    LogOutput,
    S3Credentials,
    Server,
    Settings,
    Statsite,
    embedded,
    keys_of,
    load,
    override,
    plain,
    preview,
)
from pystor.errors import ConfigError
from tests.support import needs
from tests.support.mounts import Mounts

REFERENCE = Path(__file__).parents[1] / "docs" / "configuration.md"

ORIGINAL = """{
  "statsite": {"host": "STATSITE_HOST", "prefix": "stor.dev", "sample_rate": 0.1},
  "storage_pairs": [["/mnt/data1", "/mnt/data2"], ["/mnt/data3", "/mnt/data4"]],
  "writable_pairs_regex": "data[12]",
  "s3_enabled": true,
  "s3_credentials": {"access_key": "S3_ACCESS_KEY", "secret_key": "S3_SECRET_KEY", "host": "S3_HOST"},
  "memcached_servers": ["MEMCACHED_SERVER1"],
  "secret": "unused here, accepted",
  "basic_auth": "writer:writer_pass",
  "rabbitmq_uri": "amqp://guest:guest@localhost/vhost?exchange=stor&routing_key=sha&heartbeat=60",
  "cleanup_tempdir_period": 1800,
  "log": []
}"""


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two directories that can be storages."""
    for name in ("data1", "data2"):
        (tmp_path / name).mkdir()
    return [str(tmp_path / "data1"), str(tmp_path / "data2")]


@pytest.fixture
def read(tmp_path: Path, pair: list[str]) -> Callable[..., Settings]:
    """Load a configuration with one good pair and these keys."""

    def read_with(**keys: Any) -> Settings:
        return load(write(tmp_path, {"storage_pairs": [pair], **keys}))[0]

    return read_with


@pytest.fixture
def warnings_of(tmp_path: Path, pair: list[str]) -> Callable[..., list[str]]:
    """Load one good pair, a writer and these keys, and return the warnings but the one about the device."""

    def warnings_with(**keys: Any) -> list[str]:
        document = {"storage_pairs": [pair], "basic_auth": "writer:pass", **keys}
        return [line for line in load(write(tmp_path, document))[1] if "on one device" not in line]

    return warnings_with


@pytest.fixture
def problems_of(tmp_path: Path, pair: list[str]) -> Callable[..., list[str]]:
    """Load a configuration with one good pair and these keys, and return what is wrong with it."""

    def problems_with(**keys: Any) -> list[str]:
        return problems(write(tmp_path, {"storage_pairs": [pair], **keys}))

    return problems_with


def write(directory: Path, document: Mapping[str, Any]) -> Path:
    path = directory / "stor.json"
    path.write_text(json.dumps(document))
    return path


def problems(path: Path, overrides: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert all("\n" not in line for line in caught.value.problems), "each problem is one line"
    return list(caught.value.problems)


# What is read


def test_a_file_of_the_original_loads_as_it_is_with_all_its_keys(tmp_path: Path) -> None:
    for n in (1, 2, 3, 4):
        (tmp_path / f"mnt/data{n}").mkdir(parents=True)
    path = tmp_path / "stor.json"
    path.write_text(ORIGINAL.replace("/mnt", f"{tmp_path}/mnt"))
    read, _ = load(path)
    data = [tmp_path / f"mnt/data{n}" for n in (1, 2, 3, 4)]
    assert read == Settings(
        statsite=Statsite(host="STATSITE_HOST", prefix="stor.dev", sample_rate=0.1),
        storage_pairs=((data[0], data[1]), (data[2], data[3])),
        writable_pairs_regex="data[12]",
        s3_enabled=True,
        s3_credentials=S3Credentials(access_key="S3_ACCESS_KEY", secret_key="S3_SECRET_KEY", host="S3_HOST"),
        memcached_servers=(Server("MEMCACHED_SERVER1", 11211),),
        basic_auth=Credentials("writer", "writer_pass"),
        rabbitmq_uri=Amqp(vhost="vhost"),
        cleanup_tempdir_period=1800.0,
    )


def test_the_forms_that_perl_files_use_are_read(read: Callable[..., Settings]) -> None:
    read_settings = read(s3_enabled=0, rabbitmq_uri="amqp://", statsite={}, log=[], writable_pairs_regex=None)
    assert read_settings.s3_enabled is False
    assert read_settings.rabbitmq_uri == Amqp()
    assert read_settings.statsite == Statsite()
    assert read_settings.writable_pairs_regex is None
    assert read(s3_enabled=1, s3_credentials={"access_key": "a", "secret_key": "b", "host": "c"}).s3_enabled is True
    assert read(rabbitmq_uri="").rabbitmq_uri is None


def test_toml_and_json_with_the_same_keys_say_the_same(tmp_path: Path, pair: list[str]) -> None:
    as_json = write(
        tmp_path, {"storage_pairs": [pair], "port": 81, "statsite": {"host": "there"}, "upload_idle_timeout": 1.5}
    )
    as_toml = tmp_path / "stor.toml"
    as_toml.write_text(
        f'storage_pairs = {json.dumps([pair])}\nport = 81\nupload_idle_timeout = 1.5\n[statsite]\nhost = "there"\n'
    )
    assert load(as_toml) == load(as_json)


def test_what_is_not_given_has_its_default(read: Callable[..., Settings], pair: list[str]) -> None:
    assert read() == Settings(storage_pairs=((Path(pair[0]), Path(pair[1])),))


def test_the_defaults_are_those_promised() -> None:
    defaults = Settings()
    assert (defaults.host, defaults.port, defaults.workers) == (
        "127.0.0.1",
        8080,
        min(len(os.sched_getaffinity(0)), 8),
    )
    assert (defaults.max_blob_size, defaults.reserve_bytes) == (2**40, None)
    assert (defaults.durability, defaults.require_mount, defaults.verify_reads) == ("fsync", None, True)
    assert (defaults.upload_idle_timeout, defaults.header_timeout, defaults.keep_alive_timeout) == (30, 10, 75)
    assert (defaults.shutdown_timeout, defaults.drain_timeout) == (10, 60)
    assert (defaults.max_header_bytes, defaults.drain_bytes, defaults.verify_first_bytes) == (2**16, 2**30, 2**20)


def test_every_default_is_a_good_value_of_its_own_key(read: Callable[..., Settings]) -> None:
    written = plain(Settings())
    assert isinstance(written, dict)
    assert read(**{name: value for name, value in written.items() if name != "storage_pairs"}) == read()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (4096, 4096),
        ("512B", 512),
        ("10GB", 10 * 1000**3),
        ("64MiB", 64 * 1024**2),
        ("1.5 KiB", 1536),
        ("0.1 MB", 100_000),
        ("2tib", 2 * 1024**4),
    ],
)
def test_a_size_is_bytes_or_text_with_a_unit(read: Callable[..., Settings], written: object, meant: int) -> None:
    assert read(reserve_bytes=written).reserve_bytes == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("amqp://h", Amqp(host="h")),
        ("amqp://h:5673/", Amqp(host="h", port=5673)),
        ("amqps://u:p%40ss@h/%2fa?heartbeat=5", Amqp("h", 5671, True, "u", "p@ss", "/a", "stor", "sha", 5)),
        ("amqp://u@:1?exchange=e%20x&routing_key=k", Amqp(port=1, user="u", exchange="e x", routing_key="k")),
        ("amqp://[::1]:5", Amqp(host="::1", port=5)),
    ],
)
def test_an_amqp_uri_is_taken_apart(read: Callable[..., Settings], written: str, meant: Amqp) -> None:
    assert read(rabbitmq_uri=written).rabbitmq_uri == meant


def test_a_password_may_have_colons(read: Callable[..., Settings]) -> None:
    assert read(basic_auth="writer:a:b:c").basic_auth == Credentials("writer", "a:b:c")


def test_servers_outputs_and_addresses_are_read(read: Callable[..., Settings]) -> None:
    assert read(memcached_servers=["a", "b:1", "[::1]:2"]).memcached_servers == (
        Server("a", 11211),
        Server("b", 1),
        Server("::1", 2),
    )
    assert read(log=[["Screen", "min_level", "info", "newline", 1]]).log == (
        LogOutput("Screen", (("min_level", "info"), ("newline", 1))),
    )
    assert read(host="::1").host == "::1"
    credentials = {"access_key": "a", "secret_key": "b", "host": "https://s3.example:9000/"}
    assert read(s3_credentials=credentials).s3_credentials == S3Credentials("a", "b", "https://s3.example:9000/")


def test_a_relative_path_of_an_output_is_taken_from_the_current_directory(read: Callable[..., Settings]) -> None:
    log = [["File", "filename", "x.log", "format", "text"], ["File", "filename", "/x"], ["Syslog", "socket", "s"]]
    assert read(log=log).log == (
        LogOutput("File", (("filename", f"{Path.cwd()}/x.log"), ("format", "text"))),
        LogOutput("File", (("filename", "/x"),)),
        LogOutput("Syslog", (("socket", f"{Path.cwd()}/s"),)),
    )


def test_a_byte_order_mark_does_no_harm(tmp_path: Path, pair: list[str]) -> None:
    path = tmp_path / "stor.json"
    path.write_text(json.dumps({"storage_pairs": [pair]}), encoding="utf-8-sig")
    assert load(path)[0].storage_pairs == ((Path(pair[0]), Path(pair[1])),)


def test_settings_can_be_handed_to_another_process(read: Callable[..., Settings]) -> None:
    settings = read(basic_auth="a:b", statsite={"host": "h"}, rabbitmq_uri="amqp://h", log=[["File", "mode", "w"]])
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  what we pickled ourselves


# What is refused


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("prot", 1, "prot: unknown key; did you mean port?"),
        ("Basic_Auth", "a:b", "Basic_Auth: unknown key; did you mean basic_auth?"),
        ("xyzzy", 1, "xyzzy: unknown key; remove it, or look for its name in docs/configuration.md"),
        ("a\nb", 1, '"a\\nb": unknown key; remove it, or look for its name in docs/configuration.md'),
        ("port", "8080", "port: must be a whole number from 0 to 65535, not text"),
        ("port", 80.0, "port: must be a whole number from 0 to 65535, not a number"),
        ("port", True, "port: must be a whole number from 0 to 65535, not true or false"),
        ("port", 65536, "port: must be a whole number from 0 to 65535; this one is too large"),
        ("port", -1, "port: must be a whole number from 0 to 65535; this one is too small"),
        ("workers", 0, "workers: must be a whole number from 1 to 1024; this one is too small"),
        ("header_timeout", "30s", "header_timeout: must be a number of seconds from 0.001 to 31536000, not text"),
        ("header_timeout", 0, "header_timeout: must be a number of seconds from 0.001 to 31536000; this one is not"),
        ("drain_timeout", 10**400, "drain_timeout: must be a number of seconds from 0 to 31536000; this one is not"),
        ("drain_timeout", False, "drain_timeout: must be a number of seconds from 0 to 31536000, not true or false"),
        ("max_blob_size", "1 mile", "max_blob_size: must be a number of bytes, or text such as 64MiB or 10GB"),
        ("max_blob_size", "1K", "max_blob_size: must be a number of bytes, or text such as 64MiB or 10GB"),
        ("max_blob_size", "1iB", "max_blob_size: must be a number of bytes, or text such as 64MiB or 10GB"),
        ("max_blob_size", 1.5, f"max_blob_size: must be a whole number from 1 to {2**63 - 1}, not a number"),
        ("max_blob_size", "0B", f"max_blob_size: must be a whole number from 1 to {2**63 - 1}; this one is too small"),
        ("verify_reads", "yes", "verify_reads: must be true or false, not text"),
        ("verify_reads", 2, "verify_reads: must be true or false, not a number"),
        ("durability", "sometimes", "durability: must be fsync or none"),
        ("durability", True, "durability: must be fsync or none, not true or false"),
        ("host", 1, "host: must be a host name or an address, not a number"),
        (
            "host",
            "127.0.0.1:80",
            "host: '127.0.0.1:80' is no host name or address; write it alone, without a scheme or port",
        ),
        ("host", "a..b", "host: 'a..b' is no host name or address; write it alone, without a scheme or port"),
        ("host", "*", "host: '*' is no host name or address; write it alone, without a scheme or port"),
        ("writable_pairs_regex", [], "writable_pairs_regex: must be a regular expression, not an empty list"),
        ("basic_auth", 7, "basic_auth: must be text of the form USER:PASSWORD, not a number"),
        ("statsite", "host", "statsite: must be an object with the keys host, port, prefix, sample_rate, not text"),
        ("statsite", {"hots": "h"}, "statsite.hots: unknown key; did you mean host?"),
        (
            "statsite",
            {"host": "a\0b"},
            "statsite.host: 'a\\x00b' is no host name or address; write it alone, without a scheme or port",
        ),
        ("statsite", {"sample_rate": 2}, "statsite.sample_rate: must be a number from 0 to 1; this one is not"),
        ("statsite", {"prefix": 1}, "statsite.prefix: must be text, not a number"),
        (
            "statsite",
            {"prefix": "a\ud800"},
            "statsite.prefix: has a broken character, which cannot be sent; write it anew",
        ),
        (
            "s3_credentials",
            [1],
            "s3_credentials: must be an object with the keys access_key, secret_key, host, not a list",
        ),
        ("memcached_servers", [None], "memcached_servers[0]: must be text of the form HOST or HOST:PORT, not null"),
        ("memcached_servers", "one", "memcached_servers: must be a list of servers, not text"),
        ("memcached_servers", [{}], "memcached_servers[0]: must be text of the form HOST or HOST:PORT, not an object"),
        (
            "memcached_servers",
            ["a\0b"],
            "memcached_servers[0]: 'a\\x00b' must have the form HOST or HOST:PORT",
        ),
        (
            "memcached_servers",
            ["[fe80::1%\0]:1"],
            "memcached_servers[0]: '[fe80::1%\\x00]:1' must have the form HOST or HOST:PORT",
        ),
        ("memcached_servers", ["a", "b:0"], "memcached_servers[1]: 'b:0' must have the form HOST or HOST:PORT"),
        ("memcached_servers", ["[::g]:1"], "memcached_servers[0]: '[::g]:1' must have the form HOST or HOST:PORT"),
        ("log", ["Screen"], 'log[0]: must be a list such as ["Screen", "min_level", "info"], not text'),
        ("log", [["Screen", "level"]], "log[0]: must be a kind, then names and values in turn"),
        ("log", [[1]], "log[0]: must be a kind, then names and values in turn"),
        (
            "log",
            [["A", "b", []]],
            "log[0]: the values of its options must be text, numbers, true or false, or objects of them",
        ),
        ("rabbitmq_uri", 1, "rabbitmq_uri: must be an AMQP URI, not a number"),
        ("rabbitmq_uri", f"amqp://h/{'v' * 256}", "rabbitmq_uri: its vhost must have at most 255 bytes"),
        (
            "rabbitmq_uri",
            f"amqp://h?exchange={'%C3%A9' * 128}",
            "rabbitmq_uri: its exchange must have at most 255 bytes",
        ),
        (
            "rabbitmq_uri",
            f"amqp://h?routing_key={'k' * 256}",
            "rabbitmq_uri: its routing_key must have at most 255 bytes",
        ),
        ("basic_auth", "a:\ud800", "basic_auth: has a broken character, which no client can send; write it anew"),
    ],
)
def test_a_bad_value_is_told_in_one_line_that_names_key_and_mend(
    problems_of: Callable[..., list[str]], key: str, value: object, line: str
) -> None:
    assert problems_of(**{key: value}) == [line]


@pytest.mark.parametrize("text", ["writer", "", ":pass", "writer:"])
def test_credentials_without_a_user_or_a_password_are_refused(problems_of: Callable[..., list[str]], text: str) -> None:
    line = "basic_auth: must have the form USER:PASSWORD, with a colon and neither of them empty"
    assert problems_of(basic_auth=text) == [line]


@pytest.mark.parametrize(
    "uri",
    [
        "http://h",
        "localhost",
        "amqp:h",
        "amqp://h:0",
        "amqp://h:99999",
        "amqp://[::1",
        "amqp://a b",
        "amqp://h/a b",
        "amqp://h/a\nb",
        "amqp://u:TOP@h:x",
    ],
)
def test_a_bad_broker_uri_is_refused_without_telling_its_password(
    problems_of: Callable[..., list[str]], uri: str
) -> None:
    line = "rabbitmq_uri: must be a URI such as amqp://USER:PASSWORD@HOST:PORT/VHOST?exchange=stor"
    assert problems_of(rabbitmq_uri=uri) == [line]


@pytest.mark.parametrize("heartbeat", ["soon", "-1", "65536", "1" * 5000])
def test_a_bad_heartbeat_is_refused(problems_of: Callable[..., list[str]], heartbeat: str) -> None:
    line = "rabbitmq_uri: its heartbeat must be a whole number of seconds from 0 to 65535"
    assert problems_of(rabbitmq_uri=f"amqp://h?heartbeat={heartbeat}") == [line]


@pytest.mark.parametrize("host", ["ftp://h", "h/bucket", "", "https://", "u:p@h", 7])
def test_a_bad_host_of_the_archive_is_refused(problems_of: Callable[..., list[str]], host: object) -> None:
    (line,) = problems_of(s3_credentials={"access_key": "a", "secret_key": "b", "host": host})
    assert line.startswith("s3_credentials.host: must ")
    assert "HOST or HOST:PORT" in line


@pytest.mark.parametrize("host", ["b\u00fccher.example", "https://b\u00fccher.example:9", "h%20x"])
def test_a_host_of_the_archive_that_no_url_can_have_is_refused(
    problems_of: Callable[..., list[str]], host: str
) -> None:
    (line,) = problems_of(s3_credentials={"access_key": "a", "secret_key": "b", "host": host})
    assert re.fullmatch(r"s3_credentials\.host: '.*' cannot stand in a URL; write it in ASCII, .*", line)


@pytest.mark.parametrize("name", ["access_key", "secret_key"])
@pytest.mark.parametrize("value", ["AKIA\n", "AK\0IA", "AKI\u00c4", "\ud800"])
def test_a_key_of_the_archive_that_no_header_can_have_is_refused_and_not_told(
    problems_of: Callable[..., list[str]], name: str, value: str
) -> None:
    line = f"s3_credentials.{name}: has a character that no key has, such as a line break; write it anew"
    assert problems_of(s3_credentials={"access_key": "a", "secret_key": "b", name: value}) == [line]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("s3_bucket", ["a b", "a/b", "..", "x?y", "", "x" * 64]),
        ("s3_prefix", ["../x", "a b", "a//b", "\u00e9", "?x"]),
        ("s3_region", ["x y", "\u00e9", "a/b", ""]),
    ],
)
def test_what_an_archive_cannot_be_called_is_refused(
    problems_of: Callable[..., list[str]], key: str, values: list[str]
) -> None:
    for value in values:
        (line,) = problems_of(**{key: value})
        assert re.fullmatch(rf"{key}: .*'.*'.*[:;] write .*", line), line


def test_an_archive_is_called_as_it_is_written(read: Callable[..., Settings]) -> None:
    names = {"s3_bucket": "My.bucket-1", "s3_prefix": "/a/b_c/", "s3_region": "eu-west-1"}
    settings = read(**names)
    assert {name: getattr(settings, name) for name in names} == names


def test_a_bad_regular_expression_is_told_with_its_fault(problems_of: Callable[..., list[str]]) -> None:
    (line,) = problems_of(writable_pairs_regex="data[12")
    assert line.startswith("writable_pairs_regex: 'data[12' is no regular expression of Python: unterminated")


def test_a_class_of_perl_that_python_reads_otherwise_is_refused(problems_of: Callable[..., list[str]]) -> None:
    (line,) = problems_of(writable_pairs_regex="data[[:digit:]]")
    assert line == (
        "writable_pairs_regex: 'data[[:digit:]]' is another expression here than in Perl: Possible nested set at "
        "position 5; write [0-9] for [[:digit:]], \\[ for a ["
    )


def test_the_archive_needs_both_keys_or_none(problems_of: Callable[..., list[str]]) -> None:
    line = "s3_credentials: has one of access_key and secret_key; give both, or none"
    assert problems_of(s3_enabled=True, s3_credentials={"access_key": "a", "host": "h"}) == [line]
    assert len(problems_of(s3_enabled=True, s3_credentials=1)) == 1


@pytest.mark.parametrize("name", ["s3_mirror", "s3_promote", "s3_redirect"])
def test_what_is_done_with_the_archive_needs_one(problems_of: Callable[..., list[str]], name: str) -> None:
    assert problems_of(**{name: True}) == [f"{name}: needs the archive; set s3_enabled to true, or this to false"]


@pytest.mark.parametrize("url", ["s3://", "s3://b?color=red", "s3://key:secret@b", "s3://b?endpoint=ftp://h"])
def test_a_bucket_that_cannot_be_is_one_line(problems_of: Callable[..., list[str]], url: str) -> None:
    (line,) = problems_of(storage_pairs=[[url]])
    assert line.startswith("storage_pairs[0][0]: ")
    assert "secret@" not in line


def test_a_bucket_that_is_listed_twice_is_noted(problems_of: Callable[..., list[str]]) -> None:
    (line,) = problems_of(storage_pairs=[["s3://bucket/a"], ["s3://bucket/a/?region=x"]])
    assert "is the same storage as storage_pairs[0][0]" in line


def test_storages_are_required(tmp_path: Path) -> None:
    line = "storage_pairs: missing; give the pairs: lists of storages that all keep the same blobs"
    assert problems(write(tmp_path, {})) == [line]
    assert problems(write(tmp_path, {"storage_pairs": None})) == [line]


def test_each_storage_is_an_absolute_path_of_a_directory_that_is_there(tmp_path: Path, pair: list[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    long = "/" + 300 * "x"
    bad = ["data1", "", str(tmp_path / "gone"), str(file), str(file / "below"), "/nul\0", "/\ud800", 7, long]
    lines = problems(write(tmp_path, {"storage_pairs": [pair, bad]}))
    assert lines == [
        "storage_pairs[1][0]: 'data1' is not absolute; write the whole path, from / on",
        "storage_pairs[1][1]: must be the absolute path of a directory, not empty text",
        f"storage_pairs[1][2]: '{tmp_path}/gone' is not there; make the directory, or mount the disk",
        f"storage_pairs[1][3]: '{file}' is not a directory; name one",
        f"storage_pairs[1][4]: '{file}/below' is not there; make the directory, or mount the disk",
        "storage_pairs[1][5]: '/nul\\x00' cannot be a path; write one without NUL and broken characters",
        "storage_pairs[1][6]: '/\\ud800' cannot be a path; write one without NUL and broken characters",
        "storage_pairs[1][7]: must be the absolute path of a directory, not a number",
        f"storage_pairs[1][8]: '{long}' cannot be looked at: File name too long; mend the disk or its permissions",
    ]


def test_a_storage_below_which_the_paths_of_blobs_would_be_too_long_is_refused(tmp_path: Path) -> None:
    beyond = 4096 - len(f"/AA/BB/CC/{64 * 'F'}.dat")  # with the NUL that ends a path
    storages = []
    for length, digit in ((beyond - 1, "1"), (beyond, "2")):
        path = tmp_path / digit
        while (left := length - len(str(path)) - 1) > 0:
            path /= digit * (100 if left > 200 else left)
        path.mkdir(parents=True)
        storages.append(str(path))
    assert problems(write(tmp_path, {"storage_pairs": [storages]})) == [
        f"storage_pairs[0][1]: '{storages[1]}' is 1 bytes too long for the paths of blobs; name a shorter one",
    ]


def test_a_storage_on_a_disk_that_is_not_mounted_is_warned_about_and_one_that_is_misspelt_is_an_error(
    tmp_path: Path, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, empty, gone = tmp_path / "fstab", tmp_path / "disk", tmp_path / "another"
    empty.mkdir()
    table.write_text(f"UUID=1 {empty} ext4 defaults 0 2\nUUID=2 {gone} ext4 defaults 0 2\n")
    monkeypatch.setattr("pystor.mounts.FSTAB", str(table))
    away = [f"{empty}/stor", f"{gone}/stor", str(gone)]

    _, warnings = load(write(tmp_path, {"storage_pairs": [pair, away]}))
    assert [line for line in warnings if line.startswith("storage_pairs[1]")] == [
        f"storage_pairs[1][{index}]: '{path}' is not there: nothing is mounted at {point}, which /etc/fstab names; "
        "mount it"
        for index, (path, point) in enumerate(zip(away, (empty, gone, gone), strict=True))
    ]
    misspelt = f"{tmp_path}/dusk/stor"
    assert problems(write(tmp_path, {"storage_pairs": [pair, [misspelt]], "s3_spool": f"{empty}/spool"})) == [
        f"storage_pairs[1][0]: '{misspelt}' is not there; make the directory, or mount the disk",
        f"s3_spool: '{empty}/spool' is not there; make the directory, or mount the disk",
    ]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([], 'storage_pairs: has no pair; list at least one, such as [["/mnt/data1", "/mnt/data2"]]'),
        ([[]], "storage_pairs[0]: the pair is empty; name its storages, or remove it"),
        (["/mnt"], "storage_pairs[0]: must be a list of directories, not text"),
        ({"a": 1}, "storage_pairs: must be a list of lists of directories, not an object"),
    ],
)
def test_pairs_are_lists_that_are_not_empty(tmp_path: Path, value: object, line: str) -> None:
    assert problems(write(tmp_path, {"storage_pairs": value})) == [line]


def test_a_storage_that_is_not_there_is_found_twice_behind_a_link_too(tmp_path: Path, pair: list[str]) -> None:
    way = tmp_path / "way"
    way.symlink_to(tmp_path)
    found = problems(write(tmp_path, {"storage_pairs": [[pair[0], f"{tmp_path}/gone"], [pair[1], f"{way}/gone"]]}))
    same = f"storage_pairs[1][1]: '{way}/gone' is the same storage as storage_pairs[0][1]; list each storage once"
    assert found[2:] == [same]


def test_a_storage_that_is_listed_twice_is_found_under_any_name(tmp_path: Path, pair: list[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(pair[0])
    gone = str(tmp_path / "gone")
    winding, gone_too = f"{tmp_path}/data2/../data1/", f"{tmp_path}/./gone"
    others = [pair[1], str(link), winding, gone, gone_too]
    assert problems(write(tmp_path, {"storage_pairs": [[pair[0]], others]})) == [
        f"storage_pairs[1][3]: '{gone}' is not there; make the directory, or mount the disk",
        f"storage_pairs[1][4]: '{gone_too}' is not there; make the directory, or mount the disk",
        f"storage_pairs[1][1]: '{link}' is the same storage as storage_pairs[0][0]; list each storage once",
        f"storage_pairs[1][2]: '{winding}' is the same storage as storage_pairs[0][0]; list each storage once",
        f"storage_pairs[1][4]: '{gone_too}' is the same storage as storage_pairs[1][3]; list each storage once",
    ]


def test_all_problems_are_told_at_once(problems_of: Callable[..., list[str]]) -> None:
    lines = problems_of(port="x", workers=0, prot=1, basic_auth="nocolon", statsite={"port": 0})
    assert [line.split(":")[0] for line in lines] == ["prot", "basic_auth", "port", "workers", "statsite.port"]


def test_no_problem_tells_a_secret(problems_of: Callable[..., list[str]]) -> None:
    lines = problems_of(
        basic_auth="TOPSECRET",
        rabbitmq_uri="amqp://u:TOPSECRET@h:x",
        s3_credentials={"access_key": 1, "secret_key": ["TOPSECRET"], "host": "h"},
    )
    assert len(lines) == 4
    assert "TOPSECRET" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("stor.json", b'{\n  "port": 80,\n  "workers": }', "line 3 column 14: Expecting value"),
        ("stor.json", b"", "line 1 column 1: Expecting value"),
        ("stor.json", b"[]", "must be an object of keys and values, as docs/configuration.md shows"),
        ("stor.json", b'{"port": NaN}', "port: NaN is not JSON; write a number"),
        ("stor.json", b'{"a": [0, {"b": -Infinity}]}', "a[1].b: -Infinity is not JSON; write a number"),
        ("stor.json", b"NaN", "must be an object of keys and values, as docs/configuration.md shows"),
        ("stor.json", b'{"a": "\xff"}', "byte 7 is not UTF-8; save the file as UTF-8"),
        ("stor.toml", b"port = 80\nworkers = \n", "Invalid value (at line 2, column 11)"),
    ],
)
def test_a_file_that_is_no_json_or_toml_is_told_with_the_place(
    tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert problems(path) == [f"{path}: {line}"]


def test_a_file_made_to_exhaust_the_parser_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "stor.json"
    for content in ('{"a":' * 100_000, '{"port": ' + "1" * 5000 + "}"):
        path.write_text(content)
        (line,) = problems(path)
        assert line.startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "gone", "No such file or directory"), (tmp_path, "Is a directory")):
        line = f"{path}: cannot be read: {reason}; name another with --config or CONFIG_FILE"
        assert problems(path) == [line]
    (line,) = problems(Path("/nul\0"))
    assert "cannot be read: embedded null byte" in line


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, pair: list[str]) -> None:
    path = tmp_path / "stor.json"
    path.write_text(f'{{"storage_pairs": {json.dumps([pair])}, "port": 1, "port": 2}}')
    assert problems(path) == ["port: given twice; keep one of them"]


def test_a_key_that_is_given_twice_further_in_is_named_with_where_it_is(tmp_path: Path, pair: list[str]) -> None:
    path = tmp_path / "stor.json"
    path.write_text(
        f'{{"storage_pairs": {json.dumps([pair])}, "statsite": {{"host": "a", "host": "b"}}, '
        '"log": [["Gelf", "socket", {"host": "a", "host": "b"}]]}'
    )
    assert problems(path) == [
        "statsite.host: given twice; keep one of them",
        "log[0][2].host: given twice; keep one of them",
    ]


def test_dates_and_infinities_of_toml_are_refused(tmp_path: Path, pair: list[str]) -> None:
    path = tmp_path / "stor.toml"
    path.write_text(
        f"storage_pairs = {json.dumps([pair])}\nport = 2024-01-01\ndrain_timeout = nan\nheader_timeout = inf\n"
        'log = [["A", "b", inf]]\n'
    )
    assert [line.partition(";")[0] for line in problems(path)] == [
        "port: must be a whole number from 0 to 65535, not a date or time",
        "header_timeout: must be a number of seconds from 0.001 to 31536000",
        "drain_timeout: must be a number of seconds from 0 to 31536000",
        "log[0]: the values of its options must be text, numbers, true or false, or objects of them",
    ]


# The command line


def test_the_command_line_wins_over_the_file(tmp_path: Path, pair: list[str]) -> None:
    path = write(tmp_path, {"storage_pairs": [pair], "port": 1, "workers": 3, "host": "a"})
    settings, _ = load(path, {"port": "0", "host": "b"})
    assert (settings.port, settings.host, settings.workers) == (0, "b", 3)


def test_what_is_wrong_on_the_command_line_is_told_with_the_rest(tmp_path: Path, pair: list[str]) -> None:
    path = write(tmp_path, {"storage_pairs": [pair], "durability": "x"})
    assert problems(path, {"port": "x", "workers": "0"}) == [
        "durability: must be fsync or none",
        "--port: must be a whole number from 0 to 65535, not text",
        "--workers: must be a whole number from 1 to 1024; this one is too small",
    ]
    with pytest.raises(ConfigError, match="--host"):
        override(Settings(), {"host": "a b"})


# Warnings


def test_a_good_configuration_has_no_warnings(warnings_of: Callable[..., list[str]]) -> None:
    assert warnings_of() == []


def test_a_parameter_of_the_broker_that_is_not_used_is_warned_about(warnings_of: Callable[..., list[str]]) -> None:
    assert "rabbitmq_uri: its parameter 'cacertfile' is not used" in warnings_of(rabbitmq_uri="amqp://?cacertfile=x")[0]


@pytest.mark.parametrize("text", ["a:b\n", " a:b", "a:b ", "a: b"])
def test_spaces_around_user_and_password_are_warned_about(warnings_of: Callable[..., list[str]], text: str) -> None:
    line = "basic_auth: the spaces or line breaks around user or password are part of them; are they meant?"
    assert warnings_of(basic_auth=text) == [line]


def test_uploads_that_nobody_may_make_are_warned_about(warnings_of: Callable[..., list[str]]) -> None:
    line = "basic_auth: missing, so every upload is refused with 401; give it as USER:PASSWORD"
    assert warnings_of(basic_auth=None) == [line]


def test_a_mask_that_became_a_password_is_warned_about(warnings_of: Callable[..., list[str]]) -> None:
    archive = {"access_key": "a", "secret_key": MASK, "host": "h"}
    lines = warnings_of(basic_auth=f"writer:{MASK}", s3_credentials=archive, rabbitmq_uri=f"amqp://u:{MASK}@h")
    told = [line.partition(":")[0] for line in lines if "is the mask" in line]
    assert told == ["basic_auth", "s3_credentials.secret_key", "rabbitmq_uri"]


def test_a_loose_durability_is_warned_about(warnings_of: Callable[..., list[str]]) -> None:
    line = "durability: none: a power cut can lose acknowledged uploads; use fsync for real data"
    assert warnings_of(durability="none") == [line]


def test_an_expression_that_makes_nothing_writable_is_warned_about(warnings_of: Callable[..., list[str]]) -> None:
    line = (
        "writable_pairs_regex: makes nothing writable, so every upload is refused with 507; let it match a whole pair"
    )
    assert warnings_of(writable_pairs_regex="data3") == [line]
    assert warnings_of(writable_pairs_regex="data[12]$") == []
    assert warnings_of(writable_pairs_regex="data1$") == [
        "storage_pairs[0]: read-only: only 1 of its 2 storages match writable_pairs_regex",
        line,
    ]


def test_storages_of_a_pair_on_one_device_are_warned_about(tmp_path: Path, pair: list[str]) -> None:
    _, lines = load(write(tmp_path, {"storage_pairs": [pair], "basic_auth": "a:b"}))
    assert lines == [
        "storage_pairs[0]: storages on one device: losing it loses more than one copy; put each on a disk of its own"
    ]
    _, lines = load(write(tmp_path, {"storage_pairs": [[pair[0]], [pair[1]]], "basic_auth": "a:b"}))
    assert lines == []


def test_storages_of_a_pair_on_two_devices_are_not_warned_about(
    tmp_path: Path, pair: list[str], mounts: Mounts
) -> None:
    needs.root("mount a filesystem")
    other = mounts.tmpfs(1 << 20)
    _, lines = load(write(tmp_path, {"storage_pairs": [[pair[0], str(other)]], "basic_auth": "a:b"}))
    assert lines == []


def test_a_storage_that_nobody_may_look_at_is_a_warning(
    warnings_of: Callable[..., list[str]], pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if path == pair[0]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    line = f"storage_pairs[0][0]: {pair[0]!r} cannot be looked at: Permission denied; mend the disk or its permissions"
    assert warnings_of(storage_pairs=[[pair[0]], [pair[1]]]) == [line]


# What is printed


def test_secrets_are_masked_wherever_settings_are_shown(read: Callable[..., Settings]) -> None:
    settings = read(
        basic_auth="writer:TOPSECRET",
        s3_credentials={"access_key": "key", "secret_key": "TOPSECRET", "host": "h"},
        rabbitmq_uri="amqp://user:TOPSECRET@h",
        secret="TOPSECRET",
    )
    for shown in (repr(settings), str(settings), json.dumps(plain(settings))):
        assert "TOPSECRET" not in shown
    written = plain(settings)
    assert isinstance(written, dict)
    assert written["basic_auth"] == f"writer:{MASK}"
    assert written["s3_credentials"] == {"access_key": "key", "secret_key": MASK, "host": "h"}
    assert written["rabbitmq_uri"] == f"amqp://user:{MASK}@h:5672/%2F?exchange=stor&routing_key=sha&heartbeat=60"


@pytest.mark.parametrize("given", [{}, {"host": "h"}, {"access_key": "a", "secret_key": "b"}])
def test_what_is_left_out_of_the_credentials_is_printed_as_left_out(
    read: Callable[..., Settings], given: dict[str, str]
) -> None:
    settings = read(s3_credentials=given)
    printed = plain(settings.s3_credentials)
    assert isinstance(printed, dict)
    assert {name for name, value in printed.items() if value is not None} == set(given)
    assert read(s3_credentials=printed | given) == settings


def masked(settings: Settings) -> Settings:
    """The same settings, with the mask in the place of each secret."""
    auth, s3, broker = settings.basic_auth, settings.s3_credentials, settings.rabbitmq_uri
    return dataclasses.replace(
        settings,
        basic_auth=auth and dataclasses.replace(auth, password=MASK),
        s3_credentials=s3 and dataclasses.replace(s3, secret_key=s3.secret_key and MASK),
        rabbitmq_uri=broker and dataclasses.replace(broker, password=MASK),
    )


words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
users = words.filter(lambda word: ":" not in word)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
hosts = st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}(\.[a-z0-9]{1,9})?", fullmatch=True) | st.ip_addresses(v=6).map(str)
ports = st.integers(1, 65535)
durations = st.floats(1, 86400)
sizes = st.integers(1, 2**63 - 1)
scalars = words | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
outputs = st.builds(LogOutput, words, st.lists(st.tuples(words, scalars), max_size=2).map(tuple))
statsites = st.builds(Statsite, host=hosts, port=ports, prefix=st.text(max_size=5), sample_rate=st.floats(0, 1))
endpoints = st.none() | hosts.filter(lambda name: ":" not in name)
archives = st.builds(S3Credentials, keys, keys, endpoints) | st.builds(S3Credentials, host=endpoints)
brokers = st.builds(Amqp, hosts, ports, st.booleans(), users, words, words, words, words, st.integers(0, 65535))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_printed_loads_again_to_the_same_but_for_the_secrets(
    tmp_path: Path, pair: list[str], data: st.DataObject
) -> None:
    archive = data.draw(st.none() | archives)
    made = Settings(
        storage_pairs=data.draw(st.sampled_from([(tuple(map(Path, pair)),), tuple((Path(path),) for path in pair)])),
        writable_pairs_regex=data.draw(st.none() | words.map(re.escape)),
        basic_auth=data.draw(st.none() | st.builds(Credentials, users, words)),
        durability=data.draw(st.sampled_from(["fsync", "none"])),
        require_mount=data.draw(st.none() | st.booleans()),
        reserve_bytes=data.draw(st.none() | st.just(0) | sizes),
        max_blob_size=data.draw(sizes),
        verify_reads=data.draw(st.booleans()),
        host=data.draw(hosts),
        port=data.draw(ports),
        workers=data.draw(st.integers(1, 1024)),
        upload_idle_timeout=data.draw(durations),
        drain_timeout=data.draw(durations),
        statsite=data.draw(st.none() | statsites),
        s3_enabled=archive is not None and data.draw(st.booleans()),
        s3_credentials=archive,
        memcached_servers=data.draw(st.lists(st.builds(Server, hosts, ports), max_size=3).map(tuple)),
        rabbitmq_uri=data.draw(st.none() | brokers),
        log=data.draw(st.lists(outputs, max_size=2).map(tuple)),
    )
    printed = plain(made)
    assert isinstance(printed, dict)
    again, _ = load(write(tmp_path, printed))
    assert again == masked(made)
    assert plain(again) == printed


# The embedded default


def test_the_embedded_default_makes_its_pair_and_a_password_that_only_its_owner_reads(tmp_path: Path) -> None:
    found = embedded(tmp_path / "stor-data")
    assert found.new
    assert found.settings.storage_pairs == ((tmp_path / "stor-data/data1", tmp_path / "stor-data/data2"),)
    assert found.settings.require_mount is False
    assert all(storage.is_dir() for storage in found.settings.storage_pairs[0])
    auth = found.settings.basic_auth
    assert auth is not None
    assert len(auth.password) >= 20
    assert found.credentials_file.read_text() == f"writer:{auth.password}\n"
    assert found.credentials_file.stat().st_mode & 0o777 == 0o600
    assert {entry.name for entry in (tmp_path / "stor-data").iterdir()} == {"data1", "data2", "credentials"}


def test_the_embedded_default_keeps_its_password(tmp_path: Path) -> None:
    first, second = embedded(tmp_path / "stor-data"), embedded(tmp_path / "stor-data")
    assert first.settings == second.settings
    assert not second.new


def test_a_password_that_somebody_else_made_at_the_same_time_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedded(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _path: False)  # as it looked before the other one was there
    second = embedded(tmp_path)
    assert second.settings == first.settings
    assert not second.new


@pytest.mark.parametrize("content", [b"", b"writer\n", b"writer:\n"])
def test_a_credentials_file_that_is_none_is_told_with_its_mend(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "credentials").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        embedded(tmp_path)
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path}/credentials: ")
    assert line.endswith("; remove the file to get a new password")


def test_a_place_where_nothing_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        embedded(tmp_path / "file")
    (line,) = caught.value.problems
    assert line.endswith("Not a directory; mend it, or name a configuration with --config")


def test_looking_at_the_embedded_default_makes_nothing(tmp_path: Path) -> None:
    assert preview(tmp_path / "stor-data").require_mount is False
    assert list(tmp_path.iterdir()) == []


# The reference


def all_keys(kind: type[object] = Settings, prefix: str = "") -> dict[str, Key]:
    """Every key of the file, those of the objects in it too, by dotted name."""
    inner = {"statsite": Statsite, "s3_credentials": S3Credentials}
    found: dict[str, Key] = {}
    for name, key in keys_of(kind).items():
        found[prefix + name] = key
        if name in inner:
            found |= all_keys(inner[name], f"{prefix}{name}.")
    return found


def documented() -> dict[str, tuple[str, str]]:
    """The default and the meaning of each key in the tables of the reference."""
    rows = re.findall(r"^\| `([\w.]+)` \|[^|]*\| ([^|]*) \| ([^|]*) \|$", REFERENCE.read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows}), "a key is documented twice"
    return {name: (default, meaning) for name, default, meaning in rows}


def test_every_key_is_documented_and_no_other() -> None:
    assert set(documented()) == set(all_keys())


@pytest.mark.parametrize("name", all_keys())
def test_the_reference_tells_the_meaning_and_the_default(name: str) -> None:
    key, (default, meaning) = all_keys()[name], documented()[name]
    assert meaning == key.doc
    if key.required:
        assert "required" in default
    elif default.startswith("`"):
        assert json.loads(default.strip("`")) == plain(key.default)
    else:
        assert key.default is None or name == "workers"


@pytest.mark.parametrize("language", ["json", "toml"])
def test_the_examples_of_the_reference_load(tmp_path: Path, language: str) -> None:
    examples = re.findall(rf"^```{language}\n(.*?)^```$", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for n in (1, 2, 3, 4):
        (tmp_path / f"mnt/data{n}").mkdir(parents=True)
    for example in examples:
        path = tmp_path / f"stor.{language}"
        path.write_text(example.replace("/mnt", f"{tmp_path}/mnt"))
        load(path)


def test_the_examples_of_the_reference_say_the_same_in_both_languages() -> None:
    blocks = {
        language: re.findall(rf"^```{language}\n(.*?)^```$", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
        for language in ("json", "toml")
    }
    assert [json.loads(block) for block in blocks["json"]] == [tomllib.loads(block) for block in blocks["toml"]]
