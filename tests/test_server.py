"""The server as processes: `python -m tests.test_server DIRECTORY SECONDS WORKERS` serves a small application."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from pystor.http import server, supervisor
from pystor.http.messages import Conditions, Response, text
from pystor.http.wire import Limits
from tests.support.fuse import EVERYTHING_HANGS, FaultyStorage
from tests.support.processes import command_of, eventually, in_session

ROOT = Path(__file__).parent.parent


class Application:
    """Answers with the number of its process, or where its threads run; files in its directory make it fail."""

    limits = Limits()

    def __init__(self, directory: Path) -> None:
        if (directory / "broken").exists():
            raise RuntimeError("the factory is broken")
        self._directory = directory

    def answer(self, _method: bytes, target: bytes, _conditions: Conditions, _client: str) -> Response | None:
        if target == b"/hang":
            time.sleep(60)
        return text(200, str(os.getpid())) if target == b"/pid" else None

    async def take(self, *_: object) -> Response:
        raise AssertionError("nobody sends anything here")

    def refused(self, *_: object) -> None:
        raise AssertionError("nobody sends what is no request")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["path"] == "/processors":
            await self._tell_processors(send)
            return
        size = 1 << 30 if scope["path"] == "/large" else 0
        if not size:
            while (await receive())["more_body"]:
                pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for _ in range(size >> 20):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await send({"type": "http.response.body"})

    async def _tell_processors(self, send: Any) -> None:
        mine, theirs = os.sched_getaffinity(0), await asyncio.to_thread(os.sched_getaffinity, 0)
        answer = text(200, json.dumps([sorted(mine), sorted(theirs)]))
        await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        assert not (self._directory / "unable").exists(), "the lifespan is broken"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if (self._directory / "hanging").exists():
            time.sleep(60)  # noqa: ASYNC251  # as a disk that hangs would
        if (self._directory / "without threads").exists():
            setattr(threading.Thread, "start", _refuse_thread)  # noqa: B010  it is a method
        await send({"type": "lifespan.shutdown.complete"})


def _refuse_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def main(directory: Path, shutdown_timeout: float, workers: int) -> int:
    return server.serve(
        functools.partial(Application, directory),
        server.listen("127.0.0.1", 0),
        host="127.0.0.1",
        workers=workers,
        limits=Application.limits,
        shutdown_timeout=shutdown_timeout,
        announce=lambda url: print(url, flush=True),  # noqa: T201  # as the command does
    )


class Running:
    """A server with a session of its own, so that nothing it starts can hide."""

    def __init__(self, directory: Path, *, shutdown_timeout: float = 1.0, workers: int = 2) -> None:
        self.directory = directory
        with (directory / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.test_server", str(directory), str(shutdown_timeout), str(workers)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @functools.cached_property
    def port(self) -> int:
        assert self._process.stdout is not None
        announced = self._process.stdout.readline().decode()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", announced)
        assert found, (announced, self.errors)
        return int(found[1])

    @property
    def errors(self) -> str:
        return (self.directory / "errors").read_text()

    @property
    def processes(self) -> list[int]:
        return in_session(self.pid)

    @property
    def workers(self) -> list[int]:
        return [pid for pid in self.processes if b"spawn_main" in command_of(pid)]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 10.0) -> int:
        return self._process.wait(timeout)

    def ask(self, request: bytes = b"GET /pid HTTP/1.1\r\nconnection: close\r\n\r\n") -> bytes:
        with self.connect(request) as client:
            return b"".join(iter(functools.partial(client.recv, 65536), b""))

    @contextlib.contextmanager
    def connect(self, request: bytes) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(request)
            yield client

    def is_served(self) -> bool:
        return self.ask().startswith(b"HTTP/1.1 200 OK")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers; what they leave behind is killed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Running(tmp_path, **options))


Start = Callable[..., Running]


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionError:
        return True
    return False


def leaves_nothing(running: Running) -> None:
    # The resource tracker of multiprocessing ends by itself when it has seen the others end.
    eventually(lambda: running.processes == [], within=2.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_announces_itself_serves_and_ends_at_once_with_status_0(start: Start, number: int) -> None:
    running = start()
    assert running.is_served()
    eventually(lambda: len(running.workers) == 2)
    with running.connect(b"GET /pid HTTP/1.1\r\n\r\n"):
        began = time.monotonic()
        running.signal(number)
        assert running.wait() == 0
        assert time.monotonic() - began < 3.0  # without load, 0.3
    leaves_nothing(running)
    assert "Traceback" not in running.errors


def test_each_process_may_have_open_what_the_system_allows(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        running = start(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert running.is_served()
    for pid in [running.pid, *running.workers]:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (min(hard, 1 << 20), hard)


def test_a_signal_before_anything_is_ready_ends_it_too(start: Start) -> None:
    running = start(shutdown_timeout=0.5)
    eventually(lambda: bool(running.workers))
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    leaves_nothing(running)


def test_a_killed_worker_is_replaced_and_service_goes_on(start: Start) -> None:
    running = start()
    assert running.is_served()
    eventually(lambda: len(running.workers) == 2)
    for victim in running.workers:
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: victim not in running.workers)  # type: ignore[misc]  # until then it may accept
        assert running.is_served()
        eventually(lambda: len(running.workers) == 2)
    assert running.errors.count("ended with status -9") == 2
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_worker_that_cannot_be_replaced_yet_is_tried_again(start: Start) -> None:
    running = start()
    assert running.is_served()
    eventually(lambda: len(running.workers) == 2)
    time.sleep(0.5)  # for the second one to be ready, too
    (running.directory / "broken").touch()
    os.kill(running.workers[0], signal.SIGKILL)
    eventually(lambda: "before it was ready" in running.errors)
    assert running.is_served()
    (running.directory / "broken").unlink()
    eventually(lambda: len(running.workers) == 2)
    assert running.is_served()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_sighup_renews_all_workers_without_a_pause(start: Start) -> None:
    running = start()
    assert running.is_served()
    eventually(lambda: len(running.workers) == 2)
    before = set(running.workers)
    running.signal(signal.SIGHUP)

    def renewed() -> bool:
        assert running.is_served()
        return len(running.workers) == 2 and not before & set(running.workers)

    eventually(renewed)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_sighup_that_reaches_all_processes_renews_the_workers_and_cuts_nothing(start: Start) -> None:
    running = start(shutdown_timeout=10.0)
    with running.connect(b"POST /x HTTP/1.1\r\ncontent-length: 5\r\n\r\nso") as client:
        assert running.is_served()
        eventually(lambda: len(running.workers) == 2)
        before = set(running.workers)
        os.killpg(running.pid, signal.SIGHUP)
        eventually(lambda: len(set(running.workers) - before) == 2)
        client.sendall(b"far")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert "died" not in running.errors
    assert "replaced" not in running.errors


ALL = sorted(os.sched_getaffinity(0))
EACH = [{processor} for processor in ALL]
WHERE = b"GET /processors HTTP/1.1\r\nconnection: close\r\n\r\n"


def processors_of(running: Running) -> list[set[int]]:
    """Where the event loops of all workers run."""
    found = []
    for pid in running.workers:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.sched_getaffinity(pid))
    return sorted(found, key=min)


def test_each_worker_keeps_to_a_processor_of_its_own_if_there_is_one_for_each(start: Start) -> None:
    running = start(workers=len(ALL))
    assert running.is_served()
    eventually(lambda: processors_of(running) == EACH)
    for victim in running.workers:
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: victim not in running.workers and processors_of(running) == EACH)  # type: ignore[misc]
    before = set(running.workers)
    running.signal(signal.SIGHUP)
    eventually(lambda: not before & set(running.workers) and processors_of(running) == EACH)


def test_what_takes_long_beside_the_event_loop_runs_on_any_processor(start: Start) -> None:
    running = start(workers=len(ALL))
    loops, others = json.loads(running.ask(WHERE).partition(b"\r\n\r\n")[2])
    assert len(loops) == 1
    assert others == ALL


@pytest.mark.skipif(len(ALL) == 1, reason="needs two processors, of which one has no worker")
def test_where_a_processor_has_no_worker_each_worker_runs_on_any(start: Start) -> None:
    running = start(workers=len(ALL) - 1)
    assert json.loads(running.ask(WHERE).partition(b"\r\n\r\n")[2]) == [ALL, ALL]


def test_stalled_clients_hold_up_the_end_no_longer_than_the_shutdown_timeout(start: Start) -> None:
    running = start(shutdown_timeout=1.0)
    upload = b"POST /x HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome"
    early = b"PUT /pid HTTP/1.1\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for request in (upload, early, b"GET /large HTTP/1.1\r\n\r\n", b"GET /pi"):
            stack.enter_context(running.connect(request))
        time.sleep(0.3)
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert time.monotonic() - began < 1.0 + server.KILL_AFTER
    leaves_nothing(running)


def test_a_running_upload_is_finished_before_the_end_while_others_are_refused(start: Start) -> None:
    running = start(shutdown_timeout=30.0)
    with running.connect(b"POST /x HTTP/1.1\r\ncontent-length: 5\r\n\r\nso") as client:
        time.sleep(0.2)
        running.signal(signal.SIGTERM)
        eventually(lambda: refuses(running.port))
        client.sendall(b"far")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert running.wait() == 0


def test_a_second_interrupt_does_not_wait(start: Start) -> None:
    running = start(shutdown_timeout=30.0)
    with running.connect(b"POST /x HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome"):
        time.sleep(0.2)
        running.signal(signal.SIGINT)
        time.sleep(0.3)
        assert running.workers
        running.signal(signal.SIGINT)
        assert running.wait(2.0) == 0
    leaves_nothing(running)


def test_a_worker_that_does_not_end_is_killed(start: Start) -> None:
    running = start(shutdown_timeout=0.5)
    assert running.is_served()
    (running.directory / "hanging").touch()
    running.signal(signal.SIGTERM)
    assert running.wait(server.KILL_AFTER + 3.0) == 0
    leaves_nothing(running)


@pytest.mark.parametrize("hanging", [False, True])
def test_workers_whose_supervisor_is_killed_end_by_themselves(start: Start, hanging: bool) -> None:
    running = start(shutdown_timeout=0.5)
    assert running.is_served()
    if hanging:
        (running.directory / "hanging").touch()
    running.signal(signal.SIGKILL)
    running.wait()
    eventually(lambda: running.processes == [], within=server.KILL_AFTER + 3.0)


@pytest.mark.parametrize(("flag", "reason"), [("broken", "the factory is broken"), ("unable", "startup failed")])
def test_an_application_that_cannot_start_ends_the_server_with_status_1(
    start: Start, tmp_path: Path, flag: str, reason: str
) -> None:
    (tmp_path / flag).touch()
    running = start()
    assert running.wait() == 1
    assert reason in running.errors
    leaves_nothing(running)


def test_a_port_is_free_when_the_server_has_ended_though_a_worker_that_hangs_has_the_socket_still() -> None:
    listener = server.listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    with listener.dup():
        server.close(listener)
        assert refuses(port)
        server.listen("127.0.0.1", port).close()


def test_an_address_in_use_is_the_callers_to_report() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        server.listen("127.0.0.1", taken.getsockname()[1])


def test_a_host_that_does_not_exist_is_the_callers_to_report() -> None:
    with pytest.raises(OSError, match=r"not known|resolution|No address"):
        server.listen("host.invalid", 0)


def test_a_name_is_served_on_ipv4_first() -> None:
    with server.listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://0.0.0.0:80"),  # noqa: S104  # shown, not bound
        ("::1", "http://[::1]:80"),
    ],
)
def test_the_url_can_be_pasted(host: str, url: str) -> None:
    assert server._url(host, 80) == url


def say_nothing(_: supervisor.Line, number: int) -> None:  # noqa: ARG001  what a worker is called with
    threading.Event().wait()


def test_a_silent_worker_is_killed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(supervisor, "SILENCE", 0.5)
    worker = supervisor.Worker(say_nothing, 0)
    worker.check(10.0)
    worker.check(10.4)
    assert worker.alive
    worker.check(10.6)
    eventually(lambda: not worker.alive)
    assert "ended with status -9" in worker.reap()
    assert "does not answer" in caplog.text


@pytest.mark.alone(reason="a worker that has no processor for half a second is taken for one that hangs")
def test_a_worker_whose_event_loop_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "PING_EVERY", 0.1)
    with server.listen("127.0.0.1", 0) as listener:
        task = server.Task(functools.partial(Application, tmp_path), listener, Limits(), 1.0, settled=False)
        worker = supervisor.Worker(task.run, 0)

        def ends() -> bool:
            worker.receive()
            worker.check(time.monotonic())
            return not worker.alive

        eventually(lambda: ends() or worker.ready)
        monkeypatch.setattr(supervisor, "SILENCE", 0.5)
        with pytest.raises(AssertionError, match="not within 1"):
            eventually(ends, within=1.0)
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\n\r\n")
            eventually(ends, within=2.0)
    assert "ended with status -9" in worker.reap()


def never_be_ready(line: supervisor.Line, number: int) -> None:  # noqa: ARG001  what a worker is called with
    with contextlib.suppress(EOFError):
        while True:
            supervisor.tell(line, line.recv_bytes())


def test_a_worker_that_answers_and_is_never_ready_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "PING_EVERY", 0.1)
    monkeypatch.setattr(supervisor, "START", 0.5)
    worker = supervisor.Worker(never_be_ready, 0)

    def ends() -> bool:
        worker.receive()
        worker.check(time.monotonic())
        return not worker.alive

    eventually(ends, within=5.0)
    assert "ended with status -9" in worker.reap()
    assert "was not ready within 0.5 s and is replaced" in caplog.text


def start_or_hang(
    path: Path,
    listener: socket.socket | None,  # noqa: ARG001  held, as a server does
    line: supervisor.Line,
    number: int,  # noqa: ARG001  what a worker is called with
) -> None:
    """Be ready and answer; or hang in a disk if this is the first worker."""
    supervisor.tell(line, supervisor.READY)
    starts = path.parents[1] / "starts"
    starts.mkdir(exist_ok=True)
    (starts / str(os.getpid())).touch()
    if len(list(starts.iterdir())) == 1:
        path.read_bytes()
    with contextlib.suppress(EOFError):
        while True:
            supervisor.tell(line, line.recv_bytes())


def run_until(
    target: Callable[[supervisor.Line, int], None],
    done: Callable[[], bool],
    workers: int = 1,
    on_stop: Callable[[], None] = lambda: None,
) -> int:
    """Run a supervisor until something is so; end it then."""

    def end() -> None:
        try:
            eventually(done)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    running = supervisor.Supervisor(target, workers, grace=0.5, on_ready=lambda: None)
    return running.run(on_stop=on_stop)


def test_a_worker_that_is_killed_and_cannot_end_for_a_hung_disk_is_replaced_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "SILENCE", 0.5)
    monkeypatch.setattr(supervisor, "LOST_AFTER", 0.5)
    with contextlib.closing(FaultyStorage(tmp_path)) as faulty:
        (faulty.source / "blob").touch()
        faulty.fail(EVERYTHING_HANGS)
        listener = server.listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        target = functools.partial(start_or_hang, faulty.point / "blob", listener)
        began = time.monotonic()
        starts = tmp_path / "starts"
        done, on_stop = lambda: starts.exists() and len(list(starts.iterdir())) == 2, lambda: server.close(listener)
        assert run_until(target, done, on_stop=on_stop) == 0
        assert time.monotonic() - began < 12
        assert "hangs in a disk and is left" in caplog.text
        server.listen("127.0.0.1", port).close()  # the port is free though that worker has it open
        assert multiprocessing.active_children() == []  # or they would be waited for at the exit


def test_a_worker_that_gets_no_thread_ends_as_any_other(start: Start) -> None:
    running = start(workers=1)
    assert running.is_served()
    (running.directory / "without threads").touch()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert running.errors == ""


def test_a_worker_for_which_there_is_no_process_is_started_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "RETRY_AFTER", 0.1)
    real, refused = supervisor.Worker, [BlockingIOError(errno.EAGAIN, "no process")] * 3

    def start(target: Callable[[supervisor.Line, int], None], number: int) -> supervisor.Worker:
        if number == 1 and refused:
            raise refused.pop()
        return real(target, number)

    monkeypatch.setattr(supervisor, "Worker", start)
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts/none").touch()  # no worker is the first
    starts = tmp_path / "starts"
    target = functools.partial(start_or_hang, tmp_path / "disk/blob", None)
    assert run_until(target, lambda: len(list(starts.iterdir())) == 3, workers=2) == 0
    assert caplog.text.count("a worker cannot be started: [Errno 11] no process") == 3


@pytest.mark.alone(reason="workers that have no processor take longer to start and to end than signals to come")
def test_sighups_without_a_pause_renew_the_workers_one_generation_after_the_other(start: Start) -> None:
    running = start()
    assert running.is_served()
    eventually(lambda: len(running.workers) == 2)
    before, counts = set(running.workers), [0]

    def renewed() -> bool:
        running.signal(signal.SIGHUP)
        counts.append(len(running.workers))
        return not before & set(running.workers)

    eventually(renewed)
    assert max(counts) <= 8  # some end, some serve, some start
    eventually(lambda: len(running.workers) == 2)
    assert running.is_served()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
