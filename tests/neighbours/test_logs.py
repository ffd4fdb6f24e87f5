"""The log: what it looks like, where it goes, that it never holds anybody up, and that it tells no secret."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pystor.adapters import logs
from pystor.adapters.logs import Described, kinds, network, outputs, repeats, sinks
from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.network import GelfTcp
from pystor.digest import Digest
from pystor.errors import NeighbourError, StorageError
from pystor.events import Event, LeftoversSwept, NeighbourFailed, ReplicaBad, RequestEnded, StorageFailed
from tests.neighbours.servers.names import named
from tests.neighbours.servers.ports import free_port
from tests.rooms.tools import no_thread_to_give
from tests.support import needs
from tests.support.mounts import Mounts
from tests.support.processes import eventually

_TCP_REPAIR = 19

DIGEST = Digest.of(b"a blob")
ERROR = StorageError("/mnt/data1", f"open {DIGEST.path}", "Input/output error")
GET = RequestEnded("GET", f"/{DIGEST.hex}", 200, 0.0123456, 0, 100, "10.0.0.1", DIGEST, "/mnt/data1", "pool")
MISS = RequestEnded("GET", f"/{DIGEST.hex}", 404, 0.001, 0, 20, "10.0.0.1", DIGEST)
FAILURE = RequestEnded("GET", f"/{DIGEST.hex}", 503, 0.001, 0, 20, "10.0.0.1", DIGEST)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave Python's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("pystor")
    before = root.level, ours.level
    yield
    logs.tear_down()
    root.setLevel(before[0])
    ours.setLevel(before[1])


class Log:
    """A log into a file, read back as lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_up(self, *more: Described, options: dict[str, object] | None = None, **keys: Any) -> logs.Logs:
        self.logs = logs.set_up([("File", {"filename": str(self.path), **(options or {})}), *more], **keys)
        return self.logs

    def lines(self) -> list[str]:
        self.logs.flush()
        return self.path.read_text().splitlines() if self.path.exists() else []

    def messages(self) -> list[str]:
        """The lines without their times."""
        return [line.split(" ", 2)[2] for line in self.lines()]

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def written(tmp_path: Path) -> Log:
    return Log(tmp_path / "stor.log")


def in_a_loop(*events: Event, observe: Callable[[Event], None], seconds: float = 0) -> None:
    async def scenario() -> None:
        for event in events:
            observe(event)
        await asyncio.sleep(seconds)

    asyncio.run(scenario())


# What it looks like


def test_without_outputs_lines_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    observe = logs.set_up()
    in_a_loop(StorageFailed(ERROR), ReplicaBad(DIGEST, "/mnt/data1"), LeftoversSwept("/mnt/data1", 3), observe=observe)
    logging.getLogger("pystor.http").error("something %s", "else")
    observe.flush()
    lines = capfd.readouterr().err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]", line) for line in lines)
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"WARNING pystor: storage failed: /mnt/data1: open {DIGEST.path}: Input/output error",
        f"ERROR pystor: bad replica of {DIGEST.hex} on /mnt/data1",
        "INFO pystor: swept 3 temporaries of dead processes on /mnt/data1",
        "ERROR pystor.http: something else",
    ]


def test_json_is_one_object_a_line(written: Log) -> None:
    observe = written.set_up(style="json", access=1)
    in_a_loop(GET, StorageFailed(ERROR), observe=observe)
    access, failure = written.documents()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", access.pop("time"))
    assert re.fullmatch(r"[0-9a-f]{6}-1", access.pop("request"))
    assert access == {
        "level": "info",
        "logger": "pystor.access",
        "message": f"GET /{DIGEST.hex} 200",
        "client": "10.0.0.1",
        "method": "GET",
        "path": f"/{DIGEST.hex}",
        "status": 200,
        "digest": DIGEST.hex,
        "received": 0,
        "sent": 100,
        "ms": 12.346,
        "storage": "/mnt/data1",
        "tier": "pool",
    }
    assert (failure["level"], failure["storage"]) == ("warning", "/mnt/data1")


def test_the_access_log_for_people_is_a_line_with_all_there_is_to_know(written: Log) -> None:
    in_a_loop(GET, MISS, observe=written.set_up(access=1))
    served, missed = (re.sub("request=[0-9a-f]{6}-", "request=", line) for line in written.messages())
    assert served == (
        f"INFO pystor.access: GET /{DIGEST.hex} 200 request=1 client=10.0.0.1 digest={DIGEST.hex}"
        " received=0 sent=100 ms=12.346 storage=/mnt/data1 tier=pool"
    )
    assert missed.endswith("sent=20 ms=1.0")


def test_the_access_log_is_off_unless_it_is_wanted(written: Log) -> None:
    in_a_loop(GET, FAILURE, observe=written.set_up())
    assert written.lines() == []


def test_a_sampled_access_log_has_its_part_of_the_requests_and_every_failure(written: Log) -> None:
    observe = written.set_up(access=0.1, style="json")
    in_a_loop(*[GET] * 2000, *[FAILURE] * 20, observe=observe)
    statuses = [line["status"] for line in written.documents()]
    assert 120 < statuses.count(200) < 300
    assert statuses.count(503) == 20


def test_what_a_client_sends_cannot_look_like_a_line_of_its_own(written: Log) -> None:
    nasty = "/x\r\n2024-01-01 ERROR pystor: forged\x1b[31m\u2028\ud800"
    in_a_loop(RequestEnded("GET", nasty, 404, 0.1, 0, 0, "::1"), observe=written.set_up(access=1))
    (line,) = written.messages()
    assert r"/x\r\n2024-01-01 ERROR pystor: forged\x1b[31m\u2028\ud800 404" in line
    long = RequestEnded("GET", "/" + 65_000 * "x", 404, 0.1, 0, 0, "::1")
    in_a_loop(long, observe=written.set_up(access=1, style="json"))
    assert len(written.lines()[-1]) < 1000


def test_a_query_or_a_whole_url_is_not_logged_for_it_may_have_a_password(written: Log) -> None:
    observe = written.set_up(access=1)
    for path in ("/x?password=TOPSECRET", "http://writer:TOPSECRET@host/x", "*"):
        in_a_loop(RequestEnded("GET", path, 404, 0.1, 0, 0, "::1"), observe=observe)
    paths = [line.split()[3] for line in written.messages()]
    assert paths == ["/x", "-", "-"]


def test_a_stack_trace_is_below_its_line_for_people_and_a_field_of_json(written: Log) -> None:
    for style in ("text", "json"):
        written.set_up(style=style)
        try:
            raise ValueError("no such thing")
        except ValueError:
            logging.getLogger("pystor").exception("it failed")
    text, *trace, last = written.lines()
    assert text.endswith("ERROR pystor: it failed")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError: no such thing")
    field = json.loads(last)["trace"].split("\n")
    assert (field[0], field[-1], len(field)) == (trace[0], trace[-1], len(trace))


# Failures that repeat themselves


def test_a_failure_that_repeats_itself_is_one_line_and_a_number(written: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPEATED", 0.2)
    observe = written.set_up()
    other = StorageError("/mnt/data2", "open x", "Input/output error")
    many = [StorageFailed(StorageError("/mnt/data1", f"open {n}", "Input/output error")) for n in range(100)]
    in_a_loop(*many, StorageFailed(other), *many, observe=observe, seconds=0.7)
    assert written.messages() == [
        "WARNING pystor: storage failed: /mnt/data1: open 0: Input/output error",
        "WARNING pystor: storage failed: /mnt/data2: open x: Input/output error",
        "WARNING pystor: storage failed: /mnt/data1: open 99: Input/output error (and 199 more like that in 0.2 s)",
    ]
    in_a_loop(many[0], observe=observe)
    assert written.messages()[3] == "WARNING pystor: storage failed: /mnt/data1: open 0: Input/output error"


def test_what_was_left_out_is_told_when_it_stops_and_once(written: Log) -> None:
    async def scenario() -> None:
        observe = written.set_up()
        for _ in range(5):
            observe(NeighbourFailed("memcached", "h:1: Connection refused"))
            observe(ReplicaBad(DIGEST, "/mnt/data1"))
        for _ in range(2):
            await observe.stop()

    asyncio.run(scenario())
    assert len(written.lines()) == 4
    assert written.messages()[2] == (
        "WARNING pystor: memcached failed: h:1: Connection refused (and 4 more like that in 10 s)"
    )


def test_failures_of_many_kinds_take_a_bounded_place(written: Log) -> None:
    observe = written.set_up()
    in_a_loop(*(NeighbourFailed("x", str(number)) for number in range(5000)), observe=observe)
    assert len(written.lines()) == repeats.KEYS


# The outputs of the original's list


def test_each_output_takes_the_levels_from_its_lowest_to_its_highest(tmp_path: Path) -> None:
    levels = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
    outputs: list[Described] = [("File", {"min_level": name, "filename": str(tmp_path / name)}) for name in levels]
    outputs.append(("File", {"min_level": "notice", "max_level": "err", "filename": str(tmp_path / "some")}))
    observe = logs.set_up(outputs)
    for number in logs.LEVELS.values():
        logging.getLogger("pystor").log(number, "x")
    observe.flush()
    seen = {name: [line.split()[2].lower() for line in (tmp_path / name).read_text().splitlines()] for name in levels}
    assert seen == {name: levels[index:] for index, name in enumerate(levels)}
    assert len((tmp_path / "some").read_text().splitlines()) == 3


def test_an_output_may_have_no_level_but_for_a_lower_log_level() -> None:
    debugging: Described = ("Screen", {"max_level": "debug"})
    assert logs.problems([debugging]) == []
    assert kinds.output_of(debugging, "debug", "text").lowest == 10


def test_aliases_and_numbers_of_levels_are_those_of_the_original() -> None:
    for name, number in (("warn", 30), ("err", 40), ("crit", 50), ("emerg", 70), (0, 10), (7, 70)):
        assert kinds.output_of(("Screen", {"min_level": name}), "info", "text").lowest == number


def test_screen_is_standard_error_or_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    for value, stream in ((1, "err"), (0, "out"), (True, "err"), (False, "out")):
        observe = logs.set_up([("Screen", {"min_level": "info", "stderr": value, "newline": 1})])
        logging.getLogger("pystor").warning("here")
        observe.flush()
        assert getattr(capfd.readouterr(), stream).endswith("WARNING pystor: here\n")


def test_a_file_that_was_moved_away_is_made_anew(written: Log) -> None:
    written.set_up(options={"permissions": 0o600})
    logging.getLogger("pystor").warning("one")
    assert len(written.lines()) == 1
    written.path.rename(written.path.with_suffix(".old"))
    logging.getLogger("pystor").warning("two")
    assert written.messages() == ["WARNING pystor: two"]
    assert written.path.stat().st_mode & 0o777 == 0o600


def test_syslog_gets_a_datagram_an_entry(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(5)
        logs.set_up([("Syslog", {"min_level": "info", "socket": path, "ident": "stor", "facility": "local3"})])
        logging.getLogger("pystor").error("one\ntwo")
        datagram = receiver.recv(65536).decode()
    assert re.fullmatch(r"<155>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d stor\[\d+\]: one\\ntwo", datagram)


@pytest.mark.parametrize(
    ("described", "line"),
    [
        (("Email", {}), "'Email' is no kind of output; there are Screen, File, File::Locked, Syslog, Gelf"),
        (("Screen", {"min_level": "loud"}), "min_level must be one of debug, info, notice, warning, error, critical"),
        (("Screen", {"min_level": 8}), "min_level must be one of debug"),
        (("Screen", {"min_level": True}), "min_level must be one of debug"),
        (("Screen", {"min_level": "error", "max_level": "info"}), "min_level must not be above max_level"),
        (("Screen", {"colour": 1}), "unknown option 'colour'; there are format, max_level, min_level, name, newline,"),
        (("Screen", {"format": "xml"}), "format must be one of text, json"),
        (("File", {}), "filename must be text"),
        (("File", {"filename": 7}), "filename must be text"),
        (("File", {"filename": "/x", "permissions": "rw"}), "permissions must be a whole number from 0 to 511"),
        (("File", {"filename": "a\0b"}), "filename must be text without NUL and broken characters"),
        (("File", {"filename": "/tmp/\ud800"}), "filename must be text without NUL and broken characters"),
        (("Syslog", {"socket": "/dev/\0"}), "socket must be text without NUL and broken characters"),
        (("Syslog", {"facility": "x"}), "facility must be one of kern, user"),
        (("Gelf", {"socket": "graylog:12201"}), "socket must be an object"),
        (("Gelf", {"socket": {"host": "h", "path": 1}}), "unknown option 'path'; there are host, port, protocol"),
        (("Gelf", {"host": "h:12201"}), "host must be a host name or an address, without a scheme or port"),
        (("Gelf", {"host": "h\0"}), "host must be text without NUL and broken characters"),
        (("Gelf", {"host": "h\x01"}), "host must be a host name or an address"),
        (("Gelf", {"socket": {"host": "\u00e9" * 100}}), "host must be a host name or an address"),
        (("Gelf", {"host": "h", "port": 70000}), "port must be a whole number from 1 to 65535"),
        (("Gelf", {"socket": {"host": "h", "port": 0}}), "port must be a whole number from 1 to 65535"),
        (("Gelf", {"host": "h", "port": 1.5}), "port must be a whole number"),
        (("Gelf", {"protocol": "http"}), "protocol must be one of udp, tcp"),
        (("Gelf", {"chunked": 100}), "chunked must be lan, wan, 0 or the size of a datagram"),
        (("Gelf", {"additional_fields": 1}), "additional_fields must be an object"),
        (("Gelf", {"additional_fields": {"a": 1, "id": 1}}), "additional_fields has 'id'; a name has letters, digits"),
        (("Gelf", {"additional_fields": {"_id": 1}}), "additional_fields has '_id'; a name has letters, digits"),
        (("Gelf", {"additional_fields": {"a b": 1}}), "additional_fields has 'a b'; a name has letters, digits"),
        (("Gelf", {"additional_fields": {"\u00e9": 1}}), "additional_fields has '\u00e9'; a name has letters, digits"),
        (("Gelf", {"additional_fields": {"a\n": 1}}), "additional_fields has 'a\\n'; a name has letters, digits"),
        (("Gelf", {"additional_fields": {"_": 1}}), "additional_fields has '_'; a name has letters, digits"),
    ],
)
def test_what_cannot_be_meant_is_a_line(described: Described, line: str) -> None:
    good: Described = ("Screen", {"min_level": "info"})
    (problem,) = logs.problems([good, described, good])
    assert problem.startswith(f"log[1]: {line}")
    with pytest.raises(ValueError, match=re.escape(line)):
        logs.set_up([described])


# Graylog


def gelf(datagrams: list[bytes]) -> dict[str, Any]:
    """Put a message together as the specification of GELF has it, whatever order its chunks come in."""
    if len(datagrams) == 1:
        whole = datagrams[0]
    else:
        assert {datagram[:2] for datagram in datagrams} == {b"\x1e\x0f"}
        assert len({datagram[2:10] for datagram in datagrams}) == 1
        assert {datagram[11] for datagram in datagrams} == {len(datagrams)}
        assert len(datagrams) <= 128
        ordered = sorted(datagrams, key=lambda datagram: datagram[10])
        assert [datagram[10] for datagram in ordered] == list(range(len(datagrams)))
        whole = b"".join(datagram[12:] for datagram in ordered)
    document: dict[str, Any] = json.loads(gzip.decompress(whole) if whole[:2] == b"\x1f\x8b" else whole)
    assert document["version"] == "1.1"
    assert "_id" not in document
    return document


@pytest.fixture
def graylog() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        yield receiver


def datagrams(receiver: socket.socket) -> list[bytes]:
    """All that comes until it is quiet."""
    found = [receiver.recv(65536)]
    while select.select([receiver], [], [], 0.2)[0]:
        found.append(receiver.recv(65536))
    return found


def test_gelf_by_udp_has_what_the_specification_wants(graylog: socket.socket) -> None:
    place = {"host": "127.0.0.1", "port": graylog.getsockname()[1], "protocol": "udp"}
    fields = {"facility": "stor", "_dc": 1, "a.b-c": True, "_d": False, "none": None}
    options = {"min_level": "info", "socket": place, "additional_fields": fields}
    observe = logs.set_up([("Gelf", options)], access=1)
    in_a_loop(GET, observe=observe)
    message = gelf(datagrams(graylog))
    assert message["host"] == socket.gethostname()
    assert message["short_message"] == f"GET /{DIGEST.hex} 200"
    assert abs(message["timestamp"] - time.time()) < 10
    assert message["level"] == 6
    assert (message["_facility"], message["_dc"], message["_status"], message["_tier"]) == ("stor", 1, 200, "pool")
    values = [value for name, value in message.items() if name.startswith("_")]
    assert all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in values)
    assert (message["_a.b-c"], message["_d"]) == (1, 0)


def test_gelf_by_udp_goes_to_the_address_on_which_somebody_listens(
    graylog: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_RESOLVE_SECONDS", 0.0)  # what is heard does not bring back what has failed
    named(monkeypatch, {"graylog.test": ["127.0.0.3", "::1", "127.0.0.2", "127.0.0.1"]})
    logs.set_up([("Gelf", {"host": "graylog.test", "port": graylog.getsockname()[1]})])
    for number in range(20):  # that nobody listens is heard of when the next message is sent, and that one may be lost
        logging.getLogger("pystor").error("message %d", number)
        if select.select([graylog], [], [], 0.2)[0]:
            break
    assert gelf(datagrams(graylog)[-1:])["short_message"].startswith("message ")


def test_gelf_by_udp_follows_the_name_to_another_address(
    graylog: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_RESOLVE_SECONDS", 0.01)
    known = {"graylog.test": ["127.0.0.1"]}
    named(monkeypatch, known)
    port = graylog.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", port))
        other.settimeout(5)
        logs.set_up([("Gelf", {"host": "graylog.test", "port": port})])
        logging.getLogger("pystor").error("here")
        assert gelf(datagrams(graylog))["short_message"] == "here"
        known["graylog.test"] = ["127.0.0.2"]
        for _ in range(3):  # the look-up is not waited for
            logging.getLogger("pystor").error("there")
            time.sleep(0.05)
        assert gelf(datagrams(other)[-1:])["short_message"] == "there"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("chunked", "most"), [("wan", 1420), ("lan", 8154), (600, 600), (0, 65507)])
def test_a_long_message_is_cut_into_chunks_that_can_be_put_together(
    graylog: socket.socket, chunked: object, most: int, compress: bool
) -> None:
    options = {"host": "127.0.0.1", "port": graylog.getsockname()[1], "chunked": chunked, "compress": compress}
    logs.set_up([("Gelf", options)])
    text = "".join(f"{number:x}é" for number in range(2000))[:8000]
    logging.getLogger("pystor").error("%s", text)
    found = datagrams(graylog)
    assert max(map(len, found)) <= most
    assert gelf(found)["short_message"] == text


def test_the_longest_entry_has_no_more_than_128_chunks() -> None:
    entry = logs.Entry(0, 40, "x", 8192 * "\x01", trace=16_384 * "\x01")
    message = logs.as_gelf(entry, "host", {})
    assert gelf(list(logs.chunks(message, 1420)))["full_message"].startswith("\x01")


class TcpGraylog:
    """A receiver of messages ended by NUL; it can hang up, go away and come back, and hang unless it `reads`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[dict[str, Any]] = []
        self.connections: list[socket.socket] = []
        self.reads = threading.Event()
        self.reads.set()

    def __enter__(self) -> TcpGraylog:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def vanish(self) -> None:
        """Forget all connections without a word, as a machine does that is started anew."""
        for connection in self.connections:
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # the close that follows sends nothing
            connection.shutdown(socket.SHUT_RD)
        self.connections.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._receive, args=[connection], daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        pending = b""
        with connection, contextlib.suppress(OSError):
            while self.reads.wait() and (piece := connection.recv(65536)):
                *whole, pending = (pending + piece).split(b"\0")
                self.messages += map(json.loads, whole)

    @property
    def described(self) -> Described:
        return ("Gelf", {"host": "127.0.0.1", "port": self.port, "protocol": "tcp", "min_level": "info"})


def test_gelf_by_tcp_ends_each_message_with_a_nul() -> None:
    with TcpGraylog() as graylog:
        observe = logs.set_up([graylog.described], access=1)
        in_a_loop(*[GET] * 1500, observe=observe)
        eventually(lambda: len(graylog.messages) == 1500, within=5)
        numbers = [int(message["_request"].split("-")[1], 16) for message in graylog.messages]
        assert numbers == list(range(1, 1501))


def test_a_process_that_has_more_open_than_select_can_tell_of_logs_all_the_same() -> None:
    with TcpGraylog() as graylog, contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        output = GelfTcp(("127.0.0.1", graylog.port), {})
        output.open()
        output.write([Entry(0.0, logging.INFO, "pystor", "a line")])
        eventually(lambda: len(graylog.messages) == 1, within=5)
        output.close()

        readable, writable = os.pipe()
        os.set_blocking(writable, False)
        threading.Timer(0.05, os.read, (readable, 1 << 16)).start()
        sinks._write_all(writable, bytes((1 << 16) + 10))
        os.close(readable)
        os.close(writable)


def test_a_graylog_that_is_away_holds_nobody_up_and_gets_everything_when_it_is_back(written: Log) -> None:
    graylog = TcpGraylog()
    written.set_up(graylog.described)
    for number in range(100):
        logging.getLogger("pystor").warning("%s", number)
    eventually(lambda: any("does not work: Connection refused" in line for line in written.lines()), within=5)
    with graylog:
        eventually(lambda: len(graylog.messages) >= 100, within=10)
        assert [message["short_message"] for message in graylog.messages[:100]] == [str(n) for n in range(100)]
        eventually(lambda: any(f"Gelf tcp 127.0.0.1:{graylog.port} works again" in x for x in written.lines()))
        graylog.hang_up()
        time.sleep(0.1)
        logging.getLogger("pystor").warning("after the hang-up")
        eventually(lambda: graylog.messages[-1]["short_message"] == "after the hang-up", within=10)


def test_only_output_that_fails_says_so_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    logs.set_up([("Gelf", {"host": "127.0.0.1", "port": port, "protocol": "tcp"})])
    logging.getLogger("pystor").warning("lost")
    line = f"WARNING pystor: the log output Gelf tcp 127.0.0.1:{port} does not work: Connection refused\n"
    eventually(lambda: line in capfd.readouterr().err, within=5)


@pytest.mark.parametrize("other", [{"filename": "gone/too"}, {"filename": "errors", "min_level": "error"}])
def test_a_failure_that_no_other_output_takes_is_told_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], other: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    logs.set_up([("File", {"filename": "gone/all"}), ("File", other)])
    logging.getLogger("pystor").error("lost")
    eventually(lambda: "does not work: No such file or directory\n" in capfd.readouterr().err, within=5)
    logs.tear_down()  # whoever opens a file later does it in another directory


def test_a_log_server_that_hangs_takes_a_bounded_number_of_entries_and_no_time(written: Log) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        observe = written.set_up(("Gelf", {"host": "127.0.0.1", "port": port, "protocol": "tcp"}), access=1)
        began = time.perf_counter()
        in_a_loop(*[GET] * 40_000, observe=observe)
        assert time.perf_counter() - began < 3
        assert len(observe._outputs[1]._queue) <= logs.QUEUED
        began = time.perf_counter()
        asyncio.run(observe.stop())
        assert time.perf_counter() - began < 2


def test_what_waits_for_an_output_that_hangs_takes_little_however_long_the_paths_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pipe.open("rb+", buffering=0):
        observe = logs.set_up([("File", {"filename": str(pipe)})], access=1)
        tracemalloc.start()
        try:
            events = (GET._replace(path=f"/{number}{60_000 * 'x'}") for number in range(1000))
            in_a_loop(*events, observe=observe)
            assert tracemalloc.get_traced_memory()[0] < 5_000_000
        finally:
            tracemalloc.stop()


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_what_was_left_out_is_told() -> None:
    reader, writer = os.pipe()
    output = logs.Output(logs.Screen(writer, "text"), 10, 70)
    output.start(lambda _: None)
    entry = logs.Entry(time.time(), 20, "x", 100 * "y")
    began = time.perf_counter()
    for _ in range(2 * logs.QUEUED):
        output.put(entry)
    assert time.perf_counter() - began < 2
    found, told = b"", 0
    while found.count(b"yyy\n") + told < 2 * logs.QUEUED:
        found += os.read(reader, 65536)
        told = sum(map(int, re.findall(rb"(\d+) entries were left out: the log output Screen was too slow\n", found)))
    assert found.count(b"yyy\n") + told == 2 * logs.QUEUED
    assert told
    output.close(time.monotonic() + 2)
    os.close(writer)
    os.close(reader)


def test_a_disk_that_is_full_holds_nobody_up(capfd: pytest.CaptureFixture[str]) -> None:
    observe = logs.set_up([("File", {"filename": "/dev/full"}), ("Screen", {})])
    logging.getLogger("pystor").warning("x")
    line = "the log output File /dev/full does not work: No space left on device\n"
    eventually(lambda: line in capfd.readouterr().err, within=5)
    asyncio.run(observe.stop())


def numbered(numbers: range) -> Iterator[logs.Entry]:
    return (logs.Entry(time.time(), 30, "x", f"{number} {100 * 'y'}") for number in numbers)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(outputs, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(outputs, "_LONGEST_PAUSE", 0.02)


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_was_full_has_each_line_once_and_none_glued_to_a_torn_one(mounts: Mounts) -> None:
    disk = mounts.tmpfs(64 << 10)
    path, told = disk / "stor.log", list[str]()
    workers = [logs.Output(logs.File(str(path), 0o640, "json"), 10, 70) for _ in range(2)]
    for worker in workers:
        worker.start(told.append)
    for entries in zip(numbered(range(1000)), numbered(range(1000, 2000)), strict=True):
        for worker, entry in zip(workers, entries, strict=True):
            worker.put(entry)
    eventually(lambda: len(told) == 2)
    assert path.stat().st_size == 64 << 10
    mounts.remount(disk, f"size={4 << 20}")
    eventually(lambda: len(told) == 4)
    for worker in workers:
        worker.close(time.monotonic() + 5)
    lines = path.read_text().splitlines()
    whole = [json.loads(line)["message"] for line in lines if line.endswith("}")]
    assert sorted(whole) == sorted(entry.text for entry in numbered(range(2000)))
    assert 1 <= len(lines) - len(whole) <= 2  # what was torn


@pytest.mark.usefixtures("impatient")
def test_a_screen_that_goes_to_a_full_disk_has_each_line_once_and_none_glued_to_a_torn_one(mounts: Mounts) -> None:
    disk, told = mounts.tmpfs(64 << 10), list[str]()
    with (disk / "err").open("ab") as err:
        output = logs.Output(logs.Screen(err.fileno(), "json"), 10, 70)
        output.start(told.append)
        for entry in numbered(range(1000)):
            output.put(entry)
        eventually(lambda: len(told) == 1)
        mounts.remount(disk, f"size={4 << 20}")
        eventually(lambda: len(told) == 2)
        output.close(time.monotonic() + 5)
    lines = (disk / "err").read_text().splitlines()
    whole = [json.loads(line)["message"] for line in lines if line.endswith("}")]
    assert whole == [entry.text for entry in numbered(range(1000))]
    assert len(lines) - len(whole) == 1


@pytest.mark.usefixtures("impatient")
def test_a_syslog_that_stops_for_a_while_gets_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_CONNECT_SECONDS", 0.1)
    path, told, seen = str(tmp_path / "log"), list[str](), list[str]()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(5)
        output = logs.Output(network.Syslog(path, "stor", 1), 10, 70)
        output.start(told.append)
        for entry in numbered(range(1000)):
            output.put(entry)
        eventually(lambda: told == [f"the log output Syslog {path} does not work: timed out"])
        while len(seen) < 1000:
            seen.append(receiver.recv(65536).decode().partition("]: ")[2])
        output.close(time.monotonic() + 5)
    assert seen == [entry.text for entry in numbered(range(1000))]


@pytest.mark.usefixtures("impatient")
def test_a_graylog_by_tcp_that_stops_for_a_while_gets_each_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_CONNECT_SECONDS", 0.1)
    texts = [f"{entry.text} {'long' * 5000}" for entry in numbered(range(600))]
    with TcpGraylog() as graylog:
        graylog.reads.clear()
        output = logs.Output(GelfTcp(("127.0.0.1", graylog.port), {}), 10, 70)
        output.start(lambda _: None)
        for text in texts:
            output.put(logs.Entry(time.time(), 30, "x", text))
        eventually(lambda: len(graylog.connections) >= 2)  # it is connected to again
        graylog.reads.set()
        eventually(lambda: len(graylog.messages) >= len(texts), within=5)
        output.close(time.monotonic() + 5)
    assert sorted(message["short_message"] for message in graylog.messages) == sorted(texts)


@pytest.mark.usefixtures("impatient")
def test_a_graylog_by_tcp_that_vanished_while_nothing_was_logged_gets_what_is_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs.root("close a connection without a word")
    monkeypatch.setattr(network, "_IDLE_SECONDS", 1)
    with TcpGraylog() as graylog:
        output = logs.Output(GelfTcp(("127.0.0.1", graylog.port), {}), 10, 70)
        output.start(lambda _: None)
        before, after = numbered(range(2))
        output.put(before)
        eventually(lambda: len(graylog.messages) == 1)
        graylog.vanish()
        time.sleep(1.2)
        output.put(after)
        eventually(lambda: [message["short_message"] for message in graylog.messages] == [before.text, after.text])
        output.close(time.monotonic() + 5)


def test_nobody_waits_at_the_end_for_an_output_that_does_not_work(tmp_path: Path) -> None:
    told: list[str] = []
    output = logs.Output(logs.File(str(tmp_path / "missing/log"), 0o640, "text"), 10, 70)
    output.start(told.append)
    output.put(Entry(0.0, 20, "pystor", "text"))
    eventually(lambda: len(told) == 1)
    began = time.monotonic()
    output.close(began + 20)
    assert time.monotonic() - began < 10


def test_a_long_line_for_syslog_is_cut(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(5)
        syslog = network.Syslog(path, "stor", 1)
        syslog.open()
        syslog.write([Entry(0.0, 20, "pystor", "\N{SNOWMAN}" * 5000)])
        syslog.close()
        assert len(receiver.recv(65536)) == 8192


# Processes


def test_what_was_logged_last_is_written_before_the_process_ends() -> None:
    program = "from pystor.adapters import logs; import logging; logs.set_up(); logging.error('the last word')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr.endswith("ERROR root: the last word\n")


def test_what_was_logged_last_is_written_at_the_end_though_there_is_no_thread(written: Log) -> None:
    written.set_up()(NeighbourFailed("memcached", "away"))
    with contextlib.closing(asyncio.new_event_loop()) as loop, no_thread_to_give():
        loop.run_until_complete(written.logs.stop())
        assert written.path.read_text().endswith("memcached failed: away\n")


def test_lines_of_several_processes_are_not_mixed_up(tmp_path: Path) -> None:
    program = (
        "from pystor.adapters import logs; import logging; logs.set_up()\n"
        "for n in range(2000): logging.getLogger('pystor').warning('%s', 80 * 'x')"
    )
    with (tmp_path / "err").open("wb") as err:
        both = [subprocess.Popen([sys.executable, "-c", program], stderr=err) for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
    lines = (tmp_path / "err").read_text().splitlines()
    assert len(lines) == 4000
    assert all(line.endswith(" WARNING pystor: " + 80 * "x") for line in lines)


def test_setting_up_again_replaces_what_was_there(written: Log) -> None:
    for _ in range(3):
        written.set_up()
    logging.getLogger("pystor").warning("once")
    assert written.messages() == ["WARNING pystor: once"]
    assert sum(thread.name.startswith("log File") for thread in threading.enumerate()) == 1


def test_a_probe_opens_every_output(tmp_path: Path) -> None:
    path = tmp_path / "stor.log"
    observe = logs.set_up([("Screen", {}), ("File", {"filename": str(path)})])
    assert asyncio.run(observe.probe()) == f"opened Screen, File {path}"
    observe = logs.set_up([("File", {"filename": str(tmp_path / "gone" / "x")})])
    with pytest.raises(NeighbourError, match="No such file or directory; mend it, or remove it from log"):
        asyncio.run(observe.probe())
    observe = logs.set_up([("File", {"filename": f"{tmp_path}/gone/{name}"}) for name in "xy"])
    with pytest.raises(NeighbourError, match=r"gone/x: No such file .*gone/y: No such file or directory; mend it, or"):
        asyncio.run(observe.probe())


def test_something_that_cannot_be_written_down_does_not_end_the_log(written: Log) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    observe = written.set_up(style="json")
    observe.put(logs.Entry(time.time(), 30, "x", "y", {"z": Unspeakable()}))
    observe.flush()
    logging.getLogger("pystor").warning("still there")
    assert written.documents()[-1]["message"] == "still there"
