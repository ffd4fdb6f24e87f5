"""What every storage must do, a directory as well as a bucket; and a bucket when its server does what it should not."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore, ObjectStore

from pystor.adapters.s3 import Bucket, Keys, RequestPolicy
from pystor.adapters.s3.client import PIECE, Client
from pystor.address import BucketAddress, parse_bucket_url
from pystor.blob import Fingerprint, Storage
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError, StorageFull
from tests.neighbours.servers.certificates import certify, showing
from tests.neighbours.servers.proxy import Proxy
from tests.neighbours.servers.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed
from tests.rooms.tools import digest_of, run
from tests.support import processes

_prefixes = itertools.count()

SMALL, LARGE = b"a small blob", 9 << 20

KEYS, PATIENT = Keys(ACCESS_KEY, SECRET_KEY), RequestPolicy()


@dataclass
class Case:
    """A storage, and a way to see and to touch what it has behind its back."""

    storage: Storage
    put: Callable[[str, bytes], None]
    """Put something under a name of its own."""
    contents: Callable[[], dict[str, bytes]]
    """Everything there is, by name; without what tells who the storage is."""
    name: Callable[[Digest], str]

    def store(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        staged = self.storage.stage(len(content))
        try:
            staged.write(content)
            staged.sync()
            staged.publish(digest)
        finally:
            staged.discard()
        return digest

    def fingerprint(self, digest: Digest) -> Fingerprint:
        replica = self.storage.open(digest)
        assert replica is not None
        with replica:
            return replica.fingerprint

    def beside(self, kind: str) -> list[bytes]:
        return [content for name, content in self.contents().items() if name.startswith(f".stor/{kind}/")]


def of_directory(root: Path) -> Case:
    storage = Directory(str(root), reserve=0)
    root.mkdir()
    storage.adopt("a set")

    def put(name: str, content: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def contents() -> dict[str, bytes]:
        files = [path for path in root.rglob("*") if path.is_file() and path.name != "storage.json"]
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    return Case(storage, put, contents, lambda digest: digest.path)


def of_objects(storage: Bucket, store: ObjectStore, prefix: str) -> Case:
    def put(name: str, content: bytes) -> None:
        obstore.put(store, f"{prefix}/{name}", content)

    def contents() -> dict[str, bytes]:
        paths = [meta["path"] for page in obstore.list(store, prefix) for meta in page]
        return {path.removeprefix(f"{prefix}/"): bytes(obstore.get(store, path).bytes()) for path in paths}

    return Case(storage, put, contents, lambda digest: digest.key)


def bucket_of(seaweed: Seaweed, keys: Keys | None = KEYS, policy: RequestPolicy = PATIENT, **options: Any) -> Bucket:
    where: dict[str, Any] = {"bucket": seaweed.bucket, "endpoint": seaweed.endpoint}
    where |= {name: options.pop(name) for name in ("bucket", "prefix", "endpoint") if name in options}
    return Bucket.connect("s3://samples", BucketAddress(**where), keys, policy, **options)


@pytest.fixture(params=["directory", "bucket", "memory"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    prefix = f"test-{next(_prefixes)}/stor"
    if request.param == "directory":
        return of_directory(tmp_path / "storage")
    if request.param == "memory":
        memory = MemoryStore()
        return of_objects(Bucket(Client("memory", memory, memory), prefix), memory, prefix)
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return of_objects(bucket_of(seaweed, prefix=prefix), seaweed.store(), prefix)


# Every storage


def test_what_was_never_stored_is_missing(case: Case) -> None:
    assert case.storage.open(Digest.of(b"never stored")) is None


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1 << 20, (5 << 20) + 1, LARGE])
def test_what_is_published_is_read_back(case: Case, size: int) -> None:
    content = os.urandom(size)
    began = time.time()

    digest = case.store(content)

    with case.storage.open(digest) or pytest.fail("it is missing") as replica:
        assert replica.size == size
        assert began - 5 < replica.modified < time.time() + 5
        assert replica.storage == case.storage.root
        assert replica.path == case.storage.locate(digest)
        assert digest_of(replica) == digest
        assert replica.read(0, size) == content
    assert list(case.contents()) == [case.name(digest)]


def test_nothing_is_there_before_it_is_published(case: Case) -> None:
    with case.storage.stage(len(SMALL)) as staged:  # type: ignore[attr-defined]
        staged.write(SMALL[:5])
        staged.write(memoryview(SMALL)[5:])
        staged.sync()
        assert case.storage.open(Digest.of(SMALL)) is None
        staged.publish(Digest.of(SMALL))
    assert case.contents() == {case.name(Digest.of(SMALL)): SMALL}


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_is_discarded_leaves_nothing_behind(case: Case, size: int) -> None:
    staged = case.storage.stage(size)
    staged.write(bytes(size))
    staged.sync()
    staged.discard()
    staged.discard()
    assert case.contents() == {}
    with pytest.raises(StorageError):
        staged.publish(Digest.of(bytes(size)))
    assert case.contents() == {}


@pytest.mark.parametrize("size", [10, LARGE])
def test_storing_a_blob_twice_changes_nothing(case: Case, size: int) -> None:
    content = os.urandom(size)
    digest = case.store(content)
    assert case.store(content) == digest
    assert case.contents() == {case.name(digest): content}


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_bad_replica_is_set_aside_and_replaced(case: Case, size: int) -> None:
    content, rotten = os.urandom(size), os.urandom(size)
    digest = Digest.of(content)
    case.put(case.name(digest), rotten)

    staged = case.storage.stage(size)
    staged.write(content)
    staged.set_aside(digest, case.fingerprint(digest))
    staged.publish(digest)
    staged.close()

    assert case.beside("quarantine") == [rotten]
    assert case.contents()[case.name(digest)] == content


@pytest.mark.parametrize("size", [10, LARGE])
def test_an_object_of_another_size_is_kept_in_quarantine_by_whoever_stores_the_blob(size: int) -> None:
    store = MemoryStore()
    case = of_objects(Bucket(Client("memory", store, store), "stor"), store, "stor")
    content = os.urandom(size)
    case.put(case.name(Digest.of(content)), b"rotten")

    case.store(content)

    assert case.beside("quarantine") == [b"rotten"]
    assert case.contents()[case.name(Digest.of(content))] == content


def test_of_two_uploads_that_replace_a_bad_replica_the_second_does_not_set_the_good_one_aside(case: Case) -> None:
    content, rotten = os.urandom(10), os.urandom(10)
    digest = Digest.of(content)
    case.put(case.name(digest), rotten)
    bad = case.fingerprint(digest)

    for _ in range(2):
        staged = case.storage.stage(10)
        staged.write(content)
        staged.set_aside(digest, bad)
        staged.publish(digest)
        staged.close()

    assert case.beside("quarantine") == [rotten]
    assert case.contents()[case.name(digest)] == content


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_replica_that_is_too_short_does_not_stay(case: Case, size: int) -> None:
    content = os.urandom(size)
    case.put(case.name(Digest.of(content)), content[:-1])
    digest = case.store(content)
    assert case.contents()[case.name(digest)] == content


def test_setting_aside_what_is_not_there_is_harmless(case: Case) -> None:
    staged = case.storage.stage(0)
    staged.set_aside(Digest.of(b""), None)
    staged.publish(Digest.of(b""))
    staged.discard()
    assert case.contents() == {case.name(Digest.of(b"")): b""}


@pytest.mark.parametrize("size", [1000, LARGE])
def test_two_writers_of_one_blob_both_succeed(case: Case, size: int) -> None:
    content = os.urandom(size)
    together = threading.Barrier(4)

    def write() -> None:
        together.wait(10)
        case.store(content)

    with ThreadPoolExecutor(4) as pool:
        for writer in [pool.submit(write) for _ in range(4)]:
            writer.result(30)
    assert case.contents() == {case.name(Digest.of(content)): content}


@pytest.mark.parametrize("size", [100_000, LARGE])
def test_any_part_is_read_exactly_and_in_any_order(case: Case, size: int) -> None:
    content = os.urandom(size)
    with case.storage.open(case.store(content)) or pytest.fail("it is missing") as replica:
        for offset, length in [
            *((size - 10, 10), (0, 10), (10, 70_000), (5, 10), (50_000, 50_000), (0, 0), (size, 0)),
            *((size // 2, 1), (size // 2 + 1, 4096), (0, size), (size - 1, 1)),
        ]:
            assert replica.read(offset, length) == content[offset : offset + length], (offset, length)


@pytest.mark.parametrize(("offset", "size"), [(0, 13), (12, 1), (100, 1)])
def test_reading_past_the_end_is_an_error_of_one_line(case: Case, offset: int, size: int) -> None:
    with case.storage.open(case.store(SMALL)) or pytest.fail("it is missing") as replica:
        with pytest.raises(StorageError) as error:
            replica.read(offset, size)
        assert "\n" not in error.value.describe()
        assert replica.path in error.value.describe()


def test_closing_twice_is_harmless(case: Case) -> None:
    for content in (SMALL, bytes(LARGE)):
        replica = case.storage.open(case.store(content))
        assert replica is not None
        replica.close()
        replica.close()


def test_the_fingerprint_stays_while_the_bytes_stay(case: Case) -> None:
    digest, other = case.store(SMALL), case.store(b"another blob")

    def fingerprint(of: Digest) -> tuple[int, ...]:
        with case.storage.open(of) or pytest.fail("it is missing") as replica:
            return replica.fingerprint

    before = fingerprint(digest)
    assert fingerprint(digest) == before
    assert fingerprint(other) != before
    case.put(case.name(digest), SMALL.swapcase())
    assert fingerprint(digest) != before


def test_a_blob_is_noted_for_later(case: Case) -> None:
    digest = Digest.of(SMALL)
    case.storage.enqueue("repair", digest)
    case.storage.enqueue("mirror", digest)
    case.storage.enqueue("mirror", digest)
    assert sorted(case.contents()) == [f".stor/mirror/{digest.hex.upper()}", f".stor/repair/{digest.hex.upper()}"]


def test_what_is_noted_is_worked_off_by_one_at_a_time(case: Case) -> None:
    digests = {Digest.of(b"%d" % number) for number in range(3)}
    assert case.storage.pending("repair", 10) == []
    for digest in digests:
        case.storage.enqueue("repair", digest)
    case.put(".stor/repair/somebody-else's", b"")

    with case.storage.take_turn("repair") or pytest.fail("somebody has it"):
        assert case.storage.take_turn("repair") is None
        with case.storage.take_turn("mirror") or pytest.fail("it is another one"):
            pass
        assert set(case.storage.pending("repair", 10)) == digests
        for digest in digests:
            case.storage.dequeue("repair", digest, time.time())
            case.storage.dequeue("repair", digest, time.time())
        assert case.storage.pending("repair", 10) == []
    with case.storage.take_turn("repair") or pytest.fail("nobody has it"):
        pass


def test_no_more_entries_are_told_than_asked_for(case: Case) -> None:
    for number in range(5):
        case.storage.enqueue("mirror", Digest.of(b"%d" % number))
    assert len(case.storage.pending("mirror", 3)) == 3


def test_a_probe_leaves_nothing_behind(case: Case) -> None:
    case.storage.probe()
    assert case.contents() == {}


def test_it_has_room_and_nothing_to_sweep(case: Case) -> None:
    case.storage.attach()
    assert case.storage.left(case.storage.check()) > 0
    assert case.storage.sweep() == 0
    assert case.storage.writable


# A bucket


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", seaweed.port)) as between:
        yield between


@pytest.fixture
def impatient(seaweed: Seaweed, proxy: Proxy) -> Bucket:
    """A bucket behind the proxy that waits for half a second."""
    prefix = f"impatient-{next(_prefixes)}"
    return bucket_of(seaweed, policy=RequestPolicy(0.3, 0.5, 1.5), endpoint=proxy.endpoint, prefix=prefix)


def store(storage: Storage, content: bytes) -> Digest:
    return Case(storage, lambda *_: None, dict, str).store(content)


def failure(operation: Callable[..., object], *arguments: object, within: float = 1.5) -> str:
    """What an operation fails with, in time: a `StorageError` of one line without a secret."""
    began = time.monotonic()
    with pytest.raises(StorageError) as error:
        operation(*arguments)
    assert time.monotonic() - began < within
    told = error.value.describe()
    assert "\n" not in told
    assert "secret" not in told.replace("secret key", "").replace("secret_key", "")
    assert len(told) < 500
    return told


def test_a_large_blob_is_read_with_one_request(impatient: Bucket, proxy: Proxy) -> None:
    content = os.urandom(LARGE)
    digest = store(impatient, content)
    proxy.asked.clear()
    with impatient.open(digest) or pytest.fail("it is missing") as replica:
        assert b"".join(replica.read(at, min(65536, LARGE - at)) for at in range(0, LARGE, 65536)) == content
    assert len(proxy.asked) == 1


def test_a_small_blob_is_verified_and_read_with_one_request(impatient: Bucket, proxy: Proxy) -> None:
    digest = store(impatient, bytes(1 << 20))
    proxy.asked.clear()
    with impatient.open(digest) or pytest.fail("it is missing") as replica:
        assert digest_of(replica) == digest
        assert replica.read(0, 65536) == bytes(65536)
    assert len(proxy.asked) == 1


def test_connections_are_used_again_for_small_blobs(impatient: Bucket, proxy: Proxy) -> None:
    digest = store(impatient, SMALL)
    before = proxy.connections
    for _ in range(50):
        with impatient.open(digest) or pytest.fail("it is missing"):
            pass
        assert impatient.open(Digest.of(b"none")) is None
    assert proxy.connections - before <= 5  # a few for a pool that grows or is idle; of 100 requests


def test_closing_a_replica_ends_its_stream(impatient: Bucket, proxy: Proxy) -> None:
    replica = impatient.open(store(impatient, bytes(32 << 20)))
    assert replica is not None
    replica.read(0, 1)
    replica.close()
    time.sleep(0.3)
    received = proxy.received
    time.sleep(0.3)
    assert proxy.received == received < 32 << 20
    assert "is closed" in failure(replica.read, 10 << 20, 1)


def test_a_blob_of_200_mib_is_written_and_read_in_bounded_memory(seaweed: Seaweed) -> None:
    bucket, size, piece = bucket_of(seaweed, prefix="memory"), 200 << 20, os.urandom(1 << 20)
    for _ in range(2):  # threads and pools come to life with the first
        with bucket.open(store(bucket, bytes(LARGE))) or pytest.fail("it is missing") as replica:
            digest_of(replica)
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak.append(_resident())

    def grown() -> int:
        highest, peak[:] = max(peak), [0]
        return highest - before

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        hasher = hashlib.sha256()
        with bucket.stage(size) as staged:
            for _ in range(size >> 20):
                staged.write(piece)
                hasher.update(piece)
            digest = Digest(hasher.hexdigest())
            staged.publish(digest)
        assert grown() < 48 << 20, "writing takes some parts at a time"
        before = _resident()
        peak[:] = [0]
        with bucket.open(digest) or pytest.fail("it is missing") as replica:
            for at in range(0, size, 65536):
                replica.read(at, 65536)
        assert grown() < 16 << 20
    finally:
        done.set()
        watcher.join()


def _resident() -> int:
    return processes.resident_bytes(os.getpid(), "VmRSS")


def test_a_presigned_url_gives_the_blob_to_anybody(seaweed: Seaweed) -> None:
    bucket = bucket_of(seaweed, prefix="signed")
    url = bucket.presign(store(bucket, SMALL), 60)
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  it is ours
        assert answer.read() == SMALL


def test_a_bucket_may_stand_in_the_name_of_the_host() -> None:
    address = BucketAddress("samples", endpoint="http://host:1", virtual_hosted=True)
    bucket = Bucket.connect("b", address, KEYS, PATIENT)
    digest = Digest.of(b"")
    assert bucket.presign(digest, 1).startswith(f"http://samples.host:1/{digest.key}?")
    address = BucketAddress("samples", region="eu-west-1", virtual_hosted=True)
    amazon = Bucket.connect("b", address, KEYS, PATIENT)
    assert amazon.presign(digest, 1).startswith(f"https://samples.s3.eu-west-1.amazonaws.com/{digest.key}?")


def test_keys_may_come_from_the_environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    bucket_of(seaweed, None).check()


def test_what_is_configured_wins_over_the_environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of somebody else")
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    bucket_of(seaweed).check()


def test_an_empty_queue_is_not_listed_again_and_again(impatient: Bucket, proxy: Proxy) -> None:
    assert impatient.pending("repair", 10) == []
    proxy.asked.clear()
    assert impatient.pending("repair", 10) == []
    assert proxy.asked == []
    impatient.enqueue("repair", Digest.of(SMALL))
    assert impatient.pending("repair", 10) == [Digest.of(SMALL)]


def test_a_queue_that_ends_where_it_is_read_on_is_not_taken_for_an_empty_one() -> None:
    memory = MemoryStore()
    bucket = Bucket(Client("memory", memory, memory))
    bucket.enqueue("repair", Digest.of(SMALL))
    assert bucket.pending("repair", 10, 1) == []
    assert bucket.pending("repair", 10) == [Digest.of(SMALL)]


def test_a_bucket_that_is_full_is_well_enough_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: str, _: bytes) -> None:
        raise StorageFull("memory", f"put {key}", "answered 507 XMinioStorageFull")

    memory = MemoryStore()
    client = Client("memory", memory, memory)
    monkeypatch.setattr(client, "put", refuse)
    Bucket(client).probe()


@pytest.mark.parametrize("refused", ["put", "delete"])
def test_a_bucket_that_is_read_and_does_not_write_or_remove_is_out_for_writes_alone(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(key: str, *_: bytes) -> None:
        raise StorageError("memory", f"{refused} {key}", "no answer in time", dead=True)

    memory = MemoryStore()
    client = Client("memory", memory, memory)
    monkeypatch.setattr(client, refused, refuse)
    with pytest.raises(StorageError) as error:
        Bucket(client).probe()
    assert (error.value.unwritable, error.value.dead) == (True, False)

    monkeypatch.setattr(client, "get", refuse)
    with pytest.raises(StorageError) as error:
        Bucket(client).probe()
    assert (error.value.unwritable, error.value.dead) == (False, True)


def test_an_answer_counts_for_what_was_asked_before_its_question() -> None:
    memory = MemoryStore()
    client = Client("memory", memory, memory)
    before = time.monotonic()
    with client.translated("head a"):
        since = time.monotonic()
    assert (client.answers_since(before), client.answers_since(since)) == (True, False)


def test_a_server_that_ignores_ranges_gives_no_other_bytes_than_those_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = MemoryStore()
    client = Client("memory", memory, memory)
    bucket, get = Bucket(client), client.get
    digest = store(bucket, os.urandom(LARGE))
    monkeypatch.setattr(client, "get", lambda key, _=0: get(key))
    with bucket.open(digest) or pytest.fail("it is missing") as replica:
        assert "was replaced while it was read" in failure(replica.read, 6 << 20, 10)


def test_probes_whose_object_cannot_be_removed_leave_one_and_the_next_that_can_leaves_none(
    seaweed: Seaweed, proxy: Proxy
) -> None:
    prefix = f"test-{next(_prefixes)}/stor"
    bucket = bucket_of(seaweed, policy=RequestPolicy(retries=0), prefix=prefix, endpoint=proxy.endpoint)

    def left() -> list[str]:
        return [meta["path"] for page in seaweed.store().list(f"{prefix}/") for meta in page]

    proxy.garbage, proxy.trigger = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"delete"
    for _ in range(3):
        assert "let the access key" in failure(bucket.probe)
    assert len(left()) == 1
    proxy.garbage = b""
    bucket.probe()
    assert left() == []


def test_a_bucket_that_is_not_written_to_is_probed_by_reading(seaweed: Seaweed, proxy: Proxy) -> None:
    bucket_of(seaweed, endpoint=proxy.endpoint, writable=False).probe()
    assert [request[:3] for request in proxy.asked] == [b"GET"]


# ... that fails


@pytest.fixture(params=["check", "probe", "open", "store", "store a large one", "enqueue", "pending"])
def operation(request: pytest.FixtureRequest) -> Callable[[Bucket], object]:
    """Anything that is done to a bucket."""
    digest = Digest.of(b"any")
    operations: dict[str, Callable[[Bucket], object]] = {
        "check": lambda bucket: bucket.check(),
        "probe": lambda bucket: bucket.probe(),
        "open": lambda bucket: bucket.open(digest),
        "store": lambda bucket: store(bucket, SMALL),
        "store a large one": lambda bucket: store(bucket, bytes(LARGE)),
        "enqueue": lambda bucket: bucket.enqueue("repair", digest),
        "pending": lambda bucket: bucket.pending("mirror", 10),
    }
    return operations[request.param]


def test_a_wrong_secret_is_told(seaweed: Seaweed, operation: Callable[[Bucket], object]) -> None:
    wrong = bucket_of(seaweed, Keys(seaweed.access_key, "another-secret"))
    told = failure(operation, wrong)
    assert "the secret key is wrong" in told or "access is denied" in told


def test_an_unknown_access_key_is_told(seaweed: Seaweed) -> None:
    assert "the access key is not known there" in failure(bucket_of(seaweed, Keys("NOBODY", seaweed.secret_key)).check)


def test_a_bucket_that_is_not_there_is_a_failure_and_no_miss(
    seaweed: Seaweed, operation: Callable[[Bucket], object]
) -> None:
    assert "there is no such bucket: make it" in failure(operation, bucket_of(seaweed, bucket="nowhere"))


def test_a_key_over_which_the_library_breaks_down_is_told(
    seaweed: Seaweed, operation: Callable[[Bucket], object]
) -> None:
    assert "correct the keys" in failure(operation, bucket_of(seaweed, Keys("not in a header\n", seaweed.secret_key)))


def test_a_lack_of_credentials_is_told(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    anonymous = bucket_of(seaweed, None, RequestPolicy(retries=0))
    assert "there are no credentials" in failure(anonymous.check)


@pytest.mark.parametrize(
    ("certificate", "trusted", "told"),
    [
        ({}, False, "its certificate is not trusted: install the authority that has signed it"),
        ({"name": "DNS:another.example"}, True, "its certificate is one for another name: correct the endpoint"),
        ({"days": -1}, True, "its certificate is not valid today: renew it, or set the clock of this machine"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(
    certificate: dict[str, Any], trusted: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, key = certify(tmp_path, **certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(shown))
    with showing(shown, key) as endpoint:
        address = BucketAddress("samples", endpoint=endpoint)
        bucket = Bucket.connect("s3", address, KEYS, RequestPolicy(retries=0))
        assert failure(bucket.check).endswith(told)


def test_a_server_that_refuses_fails_at_once(
    impatient: Bucket, proxy: Proxy, operation: Callable[[Bucket], object]
) -> None:
    proxy.refuse()
    assert "Connection refused: see whether the service is up" in failure(operation, impatient, within=1)
    proxy.accept()
    operation(impatient)


def test_a_server_that_hangs_fails_in_time(
    impatient: Bucket, proxy: Proxy, operation: Callable[[Bucket], object]
) -> None:
    proxy.hang = True
    assert "no answer in time" in failure(operation, impatient, within=3.5)
    proxy.hang = False
    proxy.reset()
    operation(impatient)


def test_an_object_that_is_late_is_no_failure_of_the_bucket_if_others_come_meanwhile(
    impatient: Bucket, proxy: Proxy
) -> None:
    digest = store(impatient, SMALL)
    for others_come in (True, False):
        proxy.delay = 1.5
        proxy.asked.clear()
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(impatient.open, digest)
            processes.eventually(lambda: bool(proxy.asked), what="it is asked for")
            time.sleep(0.1)
            if others_come:
                proxy.delay = 0
                assert impatient.open(digest) is not None
            error = late.exception(2)
        assert isinstance(error, StorageError)
        assert "no answer in time" in error.reason
        assert error.dead is not others_come


def test_a_connection_that_is_reset_is_no_failure_of_the_bucket_and_one_that_is_refused_is(
    impatient: Bucket, proxy: Proxy
) -> None:
    proxy.cut = 0  # as by a firewall to which this object looks like an attack
    with pytest.raises(StorageError) as error:
        impatient.open(Digest.of(SMALL))
    assert "reset" in error.value.reason
    assert not error.value.dead
    proxy.refuse()
    with pytest.raises(StorageError) as error:
        impatient.open(Digest.of(SMALL))
    assert error.value.dead


def test_a_bucket_has_the_time_that_each_request_to_it_has(seaweed: Seaweed) -> None:
    patient = bucket_of(seaweed, policy=RequestPolicy(connect=1, read=10, retries=2)).timeouts
    assert 30 < patient.answer < 60
    assert patient.whole(1 << 20) == patient.answer + 16 * 10
    assert bucket_of(seaweed, policy=RequestPolicy(connect=1, read=0.5, retries=0)).timeouts.answer < 3


def test_what_has_come_is_read_without_a_thread(
    impatient: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store(impatient, SMALL)

    async def scenario() -> None:
        bulkhead = Bulkhead(impatient)
        replica = await bulkhead.open(digest)
        assert replica is not None
        proxy.hang = True
        monkeypatch.setattr(bulkhead._executor, "give", lambda *_: pytest.fail("a thread was asked"))
        with replica:
            assert await bulkhead.read(replica, 2, 5) == SMALL[2:7]
            assert await bulkhead.read(replica, 0, len(SMALL)) == SMALL
            assert not replica.read_cached(1, memoryview(bytearray(len(SMALL))))
            with replica._one_at_a_time:  # type: ignore[attr-defined]
                assert not replica.read_cached(0, memoryview(bytearray(1)))
        bulkhead.stop()

    run(scenario())


def test_of_a_small_blob_that_comes_slowly_no_more_is_waited_for_than_is_read(impatient: Bucket, proxy: Proxy) -> None:
    content = os.urandom(1 << 20)
    digest = store(impatient, content)
    proxy.rate = 400_000
    with impatient.open(digest) or pytest.fail("it is missing") as replica:
        began = time.monotonic()
        assert replica.read(0, PIECE) == content[:PIECE]
        assert time.monotonic() - began < 1  # of nearly three
        proxy.rate = 0
        assert replica.read(PIECE, len(content) - PIECE) == content[PIECE:]
        assert replica.read_cached(0, memoryview(bytearray(PIECE)))


def test_a_server_that_hangs_in_the_middle_of_a_read_fails_in_time(impatient: Bucket, proxy: Proxy) -> None:
    with impatient.open(store(impatient, bytes(LARGE))) or pytest.fail("it is missing") as replica:
        replica.read(0, 1 << 20)
        proxy.hang = True
        assert "no answer in time" in failure(replica.read, 1 << 20, 7 << 20, within=1)
        proxy.hang = False
        proxy.reset()
        assert replica.read(1 << 20, 7 << 20) == bytes(7 << 20)


def test_a_read_that_is_cut_again_and_again_fails(impatient: Bucket, proxy: Proxy) -> None:
    digest = store(impatient, bytes(LARGE))
    proxy.reset()
    proxy.cut = 1 << 20
    with impatient.open(digest) or pytest.fail("it is missing") as replica:
        told = failure(lambda: [replica.read(at, 65536) for at in range(0, LARGE, 65536)])
        assert "reset" in told
        proxy.cut = -1
        assert replica.read(5 << 20, 4 << 20) == bytes(4 << 20)


def test_a_read_that_is_cut_once_goes_on(impatient: Bucket, proxy: Proxy) -> None:
    content = os.urandom(LARGE)
    with impatient.open(store(impatient, content)) or pytest.fail("it is missing") as replica:
        assert replica.read(0, 1 << 20) == content[: 1 << 20]
        proxy.reset()
        assert replica.read(1 << 20, 8 << 20) == content[1 << 20 :]


def test_a_long_read_goes_on_as_often_as_its_stream_breaks(
    impatient: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pystor.adapters.s3.replica._LONG", 0.5)
    content = os.urandom(LARGE)
    with impatient.open(store(impatient, content)) or pytest.fail("it is missing") as replica:
        for offset in range(0, 2 * PIECE, PIECE):
            assert replica.read(offset, PIECE) == content[offset : offset + PIECE]
            time.sleep(0.55)  # obstore repeats no request of which so much time is over
            proxy.reset()
        assert replica.read(2 * PIECE, LARGE - 2 * PIECE) == content[2 * PIECE :]


def test_a_reader_slower_than_the_timeout_loses_nothing(impatient: Bucket, proxy: Proxy) -> None:
    content = os.urandom(LARGE)
    with impatient.open(store(impatient, content)) or pytest.fail("it is missing") as replica:
        replica.read(0, 65536)
        replica._opened_at -= 60  # longer than a server waits, and a test
        proxy.reset()  # what a server does to who does not read
        time.sleep(0.7)
        assert replica.read(65536, LARGE - 65536) == content[65536:]


def stands_still(proxy: Proxy) -> bool:
    received = proxy.received
    time.sleep(0.1)
    return proxy.received == received


@pytest.mark.parametrize("size", [1 << 20, LARGE])
def test_a_reader_that_paused_is_given_what_it_wants_and_a_stream_if_it_goes_on_at_once(
    impatient: Bucket, proxy: Proxy, size: int
) -> None:
    content = os.urandom(size)
    with impatient.open(store(impatient, content)) or pytest.fail("it is missing") as replica:
        assert replica.read(0, PIECE) == content[:PIECE]
        replica.pause()
        processes.eventually(lambda: stands_still(proxy), what="the stream ends")
        received = proxy.received
        for offset in range(PIECE, 4 * PIECE, PIECE):
            assert replica.read(offset, PIECE) == content[offset : offset + PIECE]
            replica.pause()
        processes.eventually(lambda: stands_still(proxy), what="nothing more comes")
        assert 3 * PIECE <= proxy.received - received < 3 * (PIECE + 2000)
        connections = proxy.connections
        for offset in range(4 * PIECE, size, PIECE):
            assert replica.read(offset, PIECE) == content[offset : offset + PIECE]
        assert proxy.connections <= connections + 1


def test_a_blob_that_is_replaced_while_it_is_read_is_a_failure(seaweed: Seaweed) -> None:
    bucket = bucket_of(seaweed, prefix="replaced")
    digest = store(bucket, bytes(LARGE))
    with bucket.open(digest) or pytest.fail("it is missing") as replica:
        replica.read(0, 10)
        obstore.put(seaweed.store(), f"replaced/{digest.key}", os.urandom(LARGE))
        assert "was replaced while it was read" in failure(replica.read, 6 << 20, 10)
        obstore.put(seaweed.store(), f"replaced/{digest.key}", b"another")
        assert "was replaced by a shorter one" in failure(replica.read, 8 << 20, 10)
        obstore.delete(seaweed.store(), f"replaced/{digest.key}")
        assert "was replaced while it was read" in failure(replica.read, 7 << 20, 10)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "answered 404 without an S3 error code"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", "answered 500 without an S3 error code"),
        (b"HTTP/1.1 301 There\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", ""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n", ""),
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 48\r\n\r\n<Error><Code>RequestTimeTooSkewed</Code></Error>",
            "set the clock",
        ),
    ],
)
def test_garbage_is_a_failure_and_no_miss(impatient: Bucket, proxy: Proxy, answer: bytes, told: str) -> None:
    proxy.garbage = answer
    assert told in failure(impatient.open, Digest.of(b"any"), within=2)
    assert told in failure(impatient.check, within=2)


def test_an_object_in_cold_storage_is_to_be_restored(impatient: Bucket, proxy: Proxy) -> None:
    body = b"<Error><Code>InvalidObjectState</Code><Message>The operation is not valid</Message></Error>"
    proxy.garbage = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert "restore it there first" in failure(impatient.open, Digest.of(b"any"))


def test_of_the_keys_the_secret_alone_is_never_told(seaweed: Seaweed, proxy: Proxy) -> None:
    bucket = bucket_of(seaweed, Keys("stor", "hidden"), endpoint=proxy.endpoint)
    body = b"<Error><Code>Odd</Code><Message>storage of stor: hidden</Message></Error>"
    proxy.garbage = b"HTTP/1.1 400 Odd\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert "answered 400 Odd: storage of stor: ***" in failure(bucket.check)


def test_a_server_that_is_full_is_told_apart(impatient: Bucket, proxy: Proxy) -> None:
    body = b"<Error><Code>XMinioStorageFull</Code><Message>Storage backend is full</Message></Error>"
    proxy.garbage = b"HTTP/1.1 507 Full\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with pytest.raises(StorageFull):
        store(impatient, SMALL)


def test_a_server_without_conditional_writes_is_written_to_all_the_same(impatient: Bucket, proxy: Proxy) -> None:
    body = b"<Error><Code>NotImplemented</Code><Message>A header implies what is not there</Message></Error>"
    proxy.garbage = b"HTTP/1.1 501 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    proxy.trigger = b"if-none-match"
    for content in (SMALL, b"another", SMALL):
        with impatient.open(store(impatient, content)) or pytest.fail("it is missing") as replica:
            assert replica.read(0, len(content)) == content


def test_an_upload_that_is_given_up_is_taken_back(impatient: Bucket, proxy: Proxy, seaweed: Seaweed) -> None:
    content = os.urandom(40 << 20)
    staged = impatient.stage(len(content))
    staged.write(content)
    assert staged.timeout > 60 + 40
    proxy.delay = 0.1
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(staged.publish, Digest.of(content))
        processes.eventually(lambda: bool(seaweed.uploads()), what="the upload has begun")
        staged.discard()
        with pytest.raises(StorageError) as error:
            published.result(5)
    assert "given up" in error.value.describe()
    proxy.delay = 0
    assert impatient.open(Digest.of(content)) is None
    assert seaweed.uploads() == []


def test_uploads_are_collected_where_there_is_room(seaweed: Seaweed, tmp_path: Path) -> None:
    bucket = bucket_of(seaweed, spool=str(tmp_path))
    with pytest.raises(StorageFull) as error:
        bucket.stage(1 << 60)
    assert str(tmp_path) in error.value.describe()
    assert "No such file" in failure(bucket_of(seaweed, spool=str(tmp_path / "none")).stage, 1)
    with bucket.stage(10) as staged:
        staged.write(SMALL)
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_killed_and_started_again_is_used_again(tmp_path: Path) -> None:
    with Seaweed(tmp_path / "seaweed") as seaweed:
        bucket = bucket_of(seaweed, policy=RequestPolicy(read=1.0))
        small, large = store(bucket, SMALL), store(bucket, bytes(32 << 20))
        with bucket.open(large) or pytest.fail("it is missing") as replica:
            replica.read(0, 1 << 20)
            seaweed.kill()
            failure(replica.read, 1 << 20, 31 << 20, within=3)
        failure(bucket.open, small, within=3)
        seaweed.start()
        for digest in (small, large):
            with bucket.open(digest) or pytest.fail("it is missing") as replica:
                assert digest_of(replica) == digest


# The URL of a bucket


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://samples", BucketAddress("samples", virtual_hosted=True)),
        ("s3://samples/", BucketAddress("samples", virtual_hosted=True)),
        ("s3://samples/a/b/", BucketAddress("samples", "a/b", virtual_hosted=True)),
        (
            "s3://samples/p?endpoint=http://host:8333&region=eu-west-1",
            BucketAddress("samples", "p", "http://host:8333", "eu-west-1"),
        ),
        ("s3://b-1.x?endpoint=https%3A%2F%2F[::1]:1/", BucketAddress("b-1.x", "", "https://[::1]:1")),
        ("s3://abc?style=path&region=x", BucketAddress("abc", region="x")),
        (
            "s3://abc?style=virtual&endpoint=https://h",
            BucketAddress("abc", endpoint="https://h", virtual_hosted=True),
        ),
    ],
)
def test_the_url_of_a_bucket_is_parsed(url: str, address: BucketAddress) -> None:
    assert parse_bucket_url(url) == address
    assert address.url == url.partition("?")[0].rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        *("", "samples", "http://samples", "s3:samples", "s3:///prefix", "s3://samples#x", "s3://[", "s3://ab"),
        *(
            "s3://key:the-secret@samples",
            "s3://Sam ples",
            "s3://samples/a//b",
            "s3://samples/../b",
            "s3://samples/a%20b",
        ),
        *("s3://samples?endpoint=host:8333", "s3://samples?endpoint=http://", "s3://samples?endpoint=http://h/path"),
        *("s3://samples?endpoint=http://the-secret@h", "s3://samples?endpoint=http://h:99999", "s3://samples?region="),
        *("s3://samples?endpoint=http://\u00e9:9", "s3://samples?endpoint=http://h%20x:9"),
        *("s3://samples?style=other", "s3://samples?regoin=x", "s3://samples?region=x&region=y", "s3://samples:80"),
    ],
)
def test_what_is_no_url_of_a_bucket_is_told_in_one_line(url: str) -> None:
    with pytest.raises(ValueError, match=r"write|must|there are") as error:
        parse_bucket_url(url)
    assert "\n" not in str(error.value)
    assert "the-secret" not in str(error.value)
