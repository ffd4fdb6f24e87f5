"""The commands as somebody types them: what is on the disk, what is printed, and how they end."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pystor.client import Digest, progress, servers, trees
from pystor.client.bulk import Totals
from pystor.client.commands import verify
from pystor.client.config import settle
from pystor.client.manifest import Manifest
from pystor.errors import ConfigError
from tests.client.conftest import lay, sha
from tests.client.scripted import Asked, Scripted, answer
from tests.client.test_library import left_in, noise
from tests.client.trouble import trouble
from tests.neighbours.servers.proxy import Proxy
from tests.support.fuse import Fault, FaultyStorage
from tests.support.processes import eventually, links_of
from tests.support.server import Server, ServerFactory

SCRIPTS = {
    "stor": [sys.executable, "-m", "pystor"],
    "stor-client": [str(Path(sys.executable).with_name("stor-client"))],
    "nohup": ["nohup", sys.executable, "-m", "pystor"],
}


class Shell:
    """Runs commands in a directory of their own, for a server."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("STOR_", "XDG_", "NETRC"))},
            "HOME": str(directory / "home"),
            "STOR_URL": server.url,
            "STOR_USER": server.user,
            "STOR_PASSWORD": server.password,
        }
        (directory / "home").mkdir()
        (directory / "out").mkdir()

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def run(self, *words: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        with self.started(*words, **environment) as process:
            out, err = process.communicate(given, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def started(self, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        command, *rest = words
        with subprocess.Popen(
            [*SCRIPTS[command], *rest],
            cwd=self.directory,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def files(directory: Path, contents: Sequence[bytes]) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"file{n:05}" for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


# Down


@pytest.mark.parametrize("command", [("stor", "get"), ("stor-client",)])
def test_every_sha_in_a_text_is_downloaded(shell: Shell, server: Server, command: tuple[str, ...]) -> None:
    contents = [noise(n * 1000) for n in range(5)]
    names = lay(server, *contents)
    text = f"{names[0]}\nblob={names[1].upper()},{names[2]}{names[3]} beef\n\n...{names[4]}"
    done = shell.run(*command, "--max=3", "out", given=text)
    assert (done.returncode, left_in(shell.out)) == (0, sorted(names))
    assert all((shell.out / name).read_bytes() == content for name, content in zip(names, contents, strict=True))
    assert re.fullmatch(r"5 downloaded: 9\.8 KiB in \d+\.\d s, .*/s\n", done.stderr)
    assert sorted(done.stdout.splitlines()) == sorted(f"{name}  out/{name}" for name in names)


def test_the_original_s_command_line_works_unchanged(shell: Shell, server: Server) -> None:
    (name,) = lay(server, noise(100))
    words = ["--storage", server.url, "--max=4", "--timeout=30s", "--delay", "100ms", "--attempts=10", "--verbose"]
    done = shell.run("stor-client", *words, "--suffix=.dat", "--upper", "out", given=name, STOR_URL="")
    assert (done.returncode, left_in(shell.out)) == (0, [f"{name.upper()}.dat"])
    again = shell.run("stor-client", "-u", server.url, "--suffix=.dat", "--upper", "-v", "out", given=name)
    assert again.returncode == 0
    assert "it exists" in again.stderr


def test_the_bucket_of_the_command_line_is_asked_first(
    shell: Shell, server: Server, make_server: ServerFactory
) -> None:
    bucket = make_server(workers=1)
    names = [*lay(bucket, noise(10)), *lay(server, noise(11))]
    options = ["--s3host", bucket.url, "--s3template={{.Sha}}"]
    done = shell.run("stor-client", "-u", server.url, *options, "out", given=" ".join(names))
    assert (done.returncode, left_in(shell.out)) == (0, sorted(names))


def test_one_that_is_not_there_fails_alone_with_status_1(shell: Shell, server: Server) -> None:
    (name,) = lay(server, noise(100))
    missing = sha(noise(9))
    done = shell.run("stor", "get", missing, name, "out")
    assert (done.returncode, left_in(shell.out)) == (1, [name])
    assert done.stderr.splitlines()[0] == f"stor: {missing}: {server.url}: File '{missing}' not found"
    assert "1 downloaded, 1 failed" in done.stderr


def test_json_tells_each_event_and_the_totals(shell: Shell, server: Server) -> None:
    (name,) = lay(server, noise(100))
    missing = sha(noise(9))
    done = shell.run("stor", "get", "--json", "out", given=f"{name} {name} {missing}")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert sorted(event["event"] for event in events) == ["done", "failed", "skipped", "totals"]
    assert (events[-1]["event"], events[-1]["done"], events[-1]["size"]) == ("totals", 1, 100)


def test_verbose_tells_of_each_try(shell: Shell, proxy: Proxy) -> None:
    proxy.refuse()
    words = ("stor", "get", "-v", "--attempts", "3", "--delay", "10ms", sha(b"x"), "out")
    done = shell.run(*words, STOR_URL=proxy.endpoint)
    assert (done.returncode, done.stderr.count("trying again in 0.0 s")) == (1, 2)


def test_options_stand_between_arguments(shell: Shell, server: Server, tmp_path: Path) -> None:
    names = lay(server, noise(10), noise(11))
    done = shell.run("stor", "get", names[0], "-u", server.url, names[1], "-v", "out", STOR_URL="")
    assert (done.returncode, left_in(shell.out)) == (0, sorted(names)), done.stderr
    assert len(shell.run("stor", "head", names[0], "--json", names[1]).stdout.splitlines()) == 2
    files(tmp_path, [noise(12)])
    (tmp_path / "-v").write_bytes(noise(13))
    done = shell.run("stor", "put", "file00000", "--json", "--", "-v")
    assert [json.loads(line).get("path") for line in done.stdout.splitlines()] == ["file00000", "-v", None]


@pytest.mark.parametrize("words", [("--", "-v"), ("--json", "--", "-v"), ("-v", "--", "-v", "--json", "--")])
def test_what_stands_behind_two_dashes_is_no_option(shell: Shell, tmp_path: Path, words: Sequence[str]) -> None:
    named = words[words.index("--") + 1 :]
    for name in named:
        (tmp_path / name).write_bytes(noise(14))
    done = shell.run("stor", "put", *words)
    assert (done.returncode, [name in done.stdout for name in named]) == (0, [True] * len(named)), done.stderr


def test_devnull_checks_and_keeps_nothing(shell: Shell, server: Server) -> None:
    names = lay(server, noise(100), noise(200_000))
    done = shell.run("stor", "get", "--devnull", *names)
    assert (done.returncode, done.stdout, left_in(shell.out)) == (0, "", [])
    assert "2 downloaded" in done.stderr


def test_a_bad_network_leaves_every_file_whole_or_absent(shell: Shell, server: Server, proxy: Proxy) -> None:
    contents = [noise(size) for size in (10, 5000, 70_000, 300_000, 2_000_000) for _ in range(8)]
    assert_all_come(shell, proxy, contents, lay(server, *contents))


def test_ten_thousand_small_blobs_come_through_a_bad_network(shell: Shell, server: Server, proxy: Proxy) -> None:
    contents = [os.urandom(100 + n % 4000) for n in range(10_000)]
    assert_all_come(shell, proxy, contents, lay(server, *contents))


def assert_all_come(shell: Shell, proxy: Proxy, contents: Sequence[bytes], names: Sequence[str]) -> None:
    with trouble(proxy):
        done = shell.run(
            *("stor", "get", "--max", "8", "--attempts", "40", "--delay", "5ms", "--timeout", "1s", "out"),
            given="\n".join(names),
            STOR_URL=proxy.endpoint,
        )
    assert (done.returncode, left_in(shell.out)) == (0, sorted(names)), done.stderr
    assert all((shell.out / name).read_bytes() == content for name, content in zip(names, contents, strict=True))


@pytest.mark.parametrize("words", [("get", "out"), ("put", "src")])
def test_no_more_go_on_at_once_than_files_may_be_open(
    shell: Shell, server: Server, proxy: Proxy, words: tuple[str, ...]
) -> None:
    """Large ones: each is a connection and a file for a while. The hard limit is 64 then, as well as the soft one."""
    contents = [noise(200_000 + n) for n in range(100)]
    files(shell.directory / "src", contents)
    names = lay(server, *contents) if words[0] == "get" else []
    proxy.delay = 0.05
    limited = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh", *SCRIPTS["stor"], *words, "--max", "60"]
    done = subprocess.run(
        [*limited, "--attempts", "1"],
        cwd=shell.directory,
        env=shell.environment | {"STOR_URL": proxy.endpoint},
        input="\n".join(names),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, left_in(shell.out), len(done.stdout.splitlines())) == (0, sorted(names), 100), done.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interruption_leaves_no_partial_file(
    shell: Shell, server: Server, proxy: Proxy, number: signal.Signals, status: int
) -> None:
    (name,) = lay(server, noise(8 << 20))
    proxy.rate = 1 << 20
    with shell.started("stor", "get", name, "out", STOR_URL=proxy.endpoint) as process:
        eventually(lambda: proxy.received > 100_000)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, left_in(shell.out)) == (status, [])
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("size", [4_000, 8 << 20], ids=["small", "large"])
def test_an_interruption_leaves_no_partial_file_where_each_has_a_name(
    shell: Shell, server: Server, size: int, number: signal.Signals, status: int
) -> None:
    (name,) = lay(server, noise(size))
    disk = FaultyStorage(shell.directory)
    try:
        with (
            disk.failing(Fault(("write",), delay=0.3)),
            shell.started("stor", "get", name, str(disk.point)) as process,
        ):
            eventually(lambda: left_in(disk.source) != [])
            process.send_signal(number)
            process.communicate(timeout=10)
        assert (process.returncode, left_in(disk.source)) == (status, [])
    finally:
        disk.close()


def test_who_has_said_that_no_hangup_counts_is_not_interrupted_by_one(
    shell: Shell, server: Server, proxy: Proxy
) -> None:
    names = lay(server, noise(8), noise(300_000))
    proxy.rate = 300_000
    with shell.started("nohup", "get", *names, "out", STOR_URL=proxy.endpoint) as process:
        eventually(lambda: proxy.received > 100_000)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=10)
    assert (process.returncode, left_in(shell.out)) == (0, sorted(names))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("size", [10, 200_000])
def test_an_interruption_does_not_wait_for_the_input(
    shell: Shell, server: Server, size: int, number: signal.Signals, status: int
) -> None:
    (name,) = lay(server, noise(size))
    with shell.started("stor", "get", "out") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        eventually(lambda: left_in(shell.out) == [name])  # it does not wait for the end of the input either
        process.send_signal(number)
        assert process.wait(5) == status
        assert re.fullmatch(r"1 downloaded: .* in .* s, .*/s\n", process.stderr.read())


def test_a_reader_who_leaves_ends_a_download_without_a_word(shell: Shell, server: Server) -> None:
    names = lay(server, noise(10), noise(11))
    with shell.started("stor", "get", "out") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        for name in names:
            process.stdin.write(name + "\n")
            process.stdin.flush()
            eventually(lambda name=name: name in left_in(shell.out))  # type: ignore[misc]
            time.sleep(0.2)  # the result is told meanwhile
        process.stdin.close()
        said = process.stderr.read()
        assert process.wait(20) == 1
    assert "Traceback" not in said
    assert "Broken pipe" not in said


# Up


def test_a_directory_is_uploaded_and_sha256sum_reads_what_is_printed(
    shell: Shell, server: Server, tmp_path: Path
) -> None:
    contents = [noise(n * 100) for n in range(1, 21)] + [noise(3 << 20)]
    paths = files(tmp_path / "src" / "deep", contents)
    odd = tmp_path / "src" / "a\\b\nc"
    odd.write_bytes(b"odd")
    (tmp_path / "src" / "link").symlink_to("nowhere")
    done = shell.run("stor", "put", "src")
    assert (done.returncode, "22 uploaded" in done.stderr) == (0, True), done.stderr
    check = subprocess.run(["sha256sum", "-c"], cwd=tmp_path, input=done.stdout, text=True, capture_output=True)  # noqa: PLW1510
    assert (check.returncode, check.stdout.count(": OK")) == (0, 22), check.stderr
    assert all(server.head(sha(path.read_bytes())).status == 200 for path in paths)
    again = shell.run("stor", "put", "src")
    assert "0 uploaded, 22 skipped" in again.stderr
    assert sorted(again.stdout) == sorted(done.stdout)


def test_the_manifest_resumes_and_a_changed_file_is_uploaded_again(shell: Shell, proxy: Proxy, tmp_path: Path) -> None:
    paths = files(tmp_path / "src", [noise(100 + n) for n in range(10)])
    first = shell.run("stor", "put", "--manifest", "src/done", "src/file00000", "src/file00001")
    assert first.returncode == 0
    with (tmp_path / "src/done").open("a") as manifest:
        manifest.write(f"{sha(b'torn')}  src/fi")
    second = shell.run("stor", "put", "--manifest", "src/done", "src", STOR_URL=proxy.endpoint)
    assert "8 uploaded, 3 skipped" in second.stderr  # two were done, and the manifest itself is none of them
    time.sleep(0.02)
    paths[3].write_bytes(b"changed")
    third = shell.run("stor", "put", "--manifest", "src/done", "src")
    assert "1 uploaded, 10 skipped" in third.stderr
    assert f"{sha(b'changed')}  src/file00003\n" in (tmp_path / "src/done").read_text()


def test_a_changed_file_that_failed_is_uploaded_by_the_next_run(shell: Shell, tmp_path: Path) -> None:
    stored: list[bytes] = []

    def script(asked: Asked) -> bytes:
        if asked.body.startswith(refused):
            return answer(507, b"no room")
        stored.append(asked.body)
        return answer(201, b'["here"]')

    def put() -> int:
        words = ("stor", "put", "--max", "1", "--manifest", "done", "a", "b", "c")
        return shell.run(*words, STOR_URL=site.url).returncode

    def write(text: str, names: str) -> None:
        for name in names:
            (tmp_path / name).write_text(f"{name} {text}")

    with Scripted(script) as site:
        write("one", "abc")
        refused = b"-"
        assert put() == 0
        write("two", "ac")
        refused = b"c"
        assert put() == 1
        refused = b"-"
        assert put() == 0
    assert stored == [b"a one", b"b one", b"c one", b"a two", b"c two"]


def test_a_run_for_another_file_leaves_a_changed_one_to_be_uploaded(shell: Shell, tmp_path: Path) -> None:
    paths = files(tmp_path / "src", [noise(10), noise(11)])
    words = ("stor", "put", "--manifest", "done")
    shell.run(*words, "src")
    for path in paths:
        path.write_bytes(noise(12))
    shell.run(*words, "src/file00000")
    assert "1 uploaded, 1 skipped" in shell.run(*words, "src").stderr
    assert "0 uploaded, 2 skipped" in shell.run(*words, "src").stderr


def test_an_old_file_that_takes_the_name_of_another_is_uploaded(shell: Shell, tmp_path: Path) -> None:
    old, new = files(tmp_path, [noise(10), noise(11)])
    os.utime(old, (1e9, 1e9))
    shell.run("stor", "put", "--manifest", "done", new.name)
    old.rename(new)
    assert "1 uploaded" in shell.run("stor", "put", "--manifest", "done", new.name).stderr


def test_the_manifest_of_a_changed_file_is_true(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    names = ["plain", "odd\\name"]
    for content in b"first", b"second":
        for name in names:
            (tmp_path / "src" / name).write_bytes(content)
        assert shell.run("stor", "put", "--manifest", "done", "src").returncode == 0
    check = subprocess.run(["sha256sum", "-c", "done"], cwd=tmp_path, text=True, capture_output=True, check=False)
    assert (check.returncode, check.stdout.count(": OK"), check.stderr) == (0, 2, "")


def test_what_comes_by_a_pipe_is_uploaded_each_time_and_not_in_the_manifest(shell: Shell, server: Server) -> None:
    for given in ("first", "second"):
        done = shell.run("stor", "put", "--manifest", "done", "-", given=given)
        assert (done.stdout, server.head(sha(given.encode())).status) == (f"{sha(given.encode())}  -\n", 200)
    assert (shell.directory / "done").read_text() == ""


def test_a_manifest_that_cannot_be_written_is_told_and_goes_on_later(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path / "src", [noise(10), noise(11)])
    command = f"ulimit -f 1; trap '' XFSZ; {sys.executable} -m pystor put --max 1 --manifest done src"
    (tmp_path / "done").write_text("\n" * 1000)  # of 1,024
    environment = {name: value for name, value in shell.environment.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("stor: src/file0000")) == (1, 2)
    assert done.stderr.splitlines()[0] == "stor: src/file00000: done: No space left on device"
    assert "Traceback" not in done.stderr
    assert shell.run("stor", "put", "--manifest", "done", "src").returncode == 0
    assert shell.run("stor", "put", "-v", "--manifest", "done", "src").stderr.count("the manifest has it") == 2
    check = subprocess.run(["sha256sum", "-c", "done"], cwd=tmp_path, text=True, capture_output=True, check=False)
    assert (check.returncode, check.stdout.count(": OK")) == (0, 2)


def test_a_torn_line_of_the_manifest_never_becomes_one(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path, [noise(10), noise(11), noise(12)])
    words = ("stor", "put", "--manifest", "done")
    shell.run(*words, "file00000")
    with (tmp_path / "done").open("a") as manifest:
        manifest.write(f"{sha(b'torn')}  file00001")
    shell.run(*words, "file00002")
    assert "1 uploaded, 2 skipped" in shell.run(*words, "file00000", "file00001", "file00002").stderr
    check = subprocess.run(["sha256sum", "-c", "done"], cwd=tmp_path, text=True, capture_output=True, check=False)
    assert (check.returncode, check.stdout.count(": OK"), check.stderr) == (0, 3, "")


def test_a_manifest_is_in_use_by_one_at_a_time(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path, [noise(10)])
    words = ("stor", "put", "--manifest", "done", "file00000")
    with Manifest(str(tmp_path / "done")):
        done = shell.run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "stor: done: is in use by another stor put\n")
    assert shell.run(*words).returncode == 0


def test_what_comes_by_a_pipe_is_uploaded(shell: Shell, server: Server) -> None:
    done = shell.run("stor", "put", "-", given="by a pipe")
    assert (done.returncode, done.stdout) == (0, f"{sha(b'by a pipe')}  -\n")
    assert server.get(sha(b"by a pipe")).body == b"by a pipe"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("path", ["-", "pipe"])
def test_an_interruption_does_not_wait_for_what_is_to_be_uploaded(
    shell: Shell, tmp_path: Path, path: str, number: signal.Signals, status: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with shell.started("stor", "put", path) as process:
        assert process.stdin is not None
        if path == "-":
            process.stdin.write("x" * 100_000)  # more than a pipe holds: it is being read
            process.stdin.flush()
        else:
            eventually(lambda: str(tmp_path / "pipe") in links_of(process.pid))
        process.send_signal(number)
        assert process.wait(5) == status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_does_not_wait_for_a_file_that_is_the_input(
    shell: Shell, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with (tmp_path / "large").open("w+b") as large:
        large.truncate(16 << 30)
        with subprocess.Popen(
            [*SCRIPTS["stor"], "put", "-"], env=shell.environment, stdin=large, stderr=subprocess.DEVNULL
        ) as process:
            eventually(lambda: large.tell() > 0)  # the position is shared: it is being read
            process.send_signal(number)
            try:
                assert process.wait(5) == status
            finally:
                process.kill()


def test_an_input_that_does_not_block_is_uploaded_to_its_end(shell: Shell) -> None:
    output, given = os.pipe()
    os.set_blocking(output, False)
    with subprocess.Popen(
        [*SCRIPTS["stor"], "put", "-"], cwd=shell.directory, env=shell.environment, stdin=output, stdout=subprocess.PIPE
    ) as process:
        os.close(output)
        os.write(given, b"the first ")
        eventually(lambda: unread(given) == 0)
        time.sleep(0.1)  # it has seen that there is no more
        os.write(given, b"and the rest")
        os.close(given)
        said, _ = process.communicate(timeout=20)
    assert said.decode() == f"{sha(b'the first and the rest')}  -\n"


def unread(pipe: int) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_reader_who_leaves_ends_an_upload_without_a_word(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path / "src", [os.urandom(10) for _ in range(600)])
    with shell.started("stor", "put", "src") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(20) == 1
    assert "Traceback" not in said
    assert "Broken pipe" not in said


def test_wrong_credentials_end_a_bulk_upload_at_once(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path / "src", [noise(10) for _ in range(50)])
    done = shell.run("stor", "put", "src", STOR_PASSWORD="WRONGSECRET")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert "Authentication required" in done.stderr
    assert "SECRET" not in done.stderr


def test_a_file_that_cannot_be_read_fails_alone(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path / "src", [noise(10)])
    done = shell.run("stor", "put", "nowhere", "no\n\x1b[2Jwhere", "src")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr.splitlines()[:2] == [
        "stor: nowhere: No such file or directory",
        r"stor: no\n\x1b[2Jwhere: No such file or directory",
    ]


def test_an_input_that_finds_no_room_on_its_way_is_told_where(shell: Shell, tmp_path: Path) -> None:
    done = in_a_shell(shell, f"ulimit -f 1; head -c 9000000 /dev/zero | TMPDIR={tmp_path} stor put -")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"stor: -: {tmp_path}: File too large"


def test_what_cannot_be_followed_in_a_tree_fails_alone(shell: Shell, tmp_path: Path) -> None:
    files(tmp_path / "src", [noise(10)])
    (tmp_path / "src" / "b-loop").symlink_to("b-loop")
    (tmp_path / "src" / "c-through").symlink_to("file00000/below")
    (tmp_path / "src" / "d-nowhere").symlink_to("nowhere")
    (tmp_path / "src" / "e-self").symlink_to(".")
    done = shell.run("stor", "put", "src")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr.splitlines()[:2] == [
        "stor: src/b-loop: Too many levels of symbolic links",
        "stor: src/c-through: Not a directory",
    ]


# Beside


def test_directories_may_lie_deep_within_each_other(shell: Shell, tmp_path: Path) -> None:
    depth, content = 1100, b"deep"
    (tmp_path / "tree").mkdir()
    parent = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=parent)
        below = os.open("d", os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = below
    try:
        with os.fdopen(os.open(sha(content), os.O_WRONLY | os.O_CREAT, dir_fd=parent), "wb") as file:
            file.write(content)
        done = shell.run("stor", "put", "tree")
        assert (done.returncode, done.stdout) == (0, f"{sha(content)}  tree/{'d/' * depth}{sha(content)}\n")
        assert shell.run("stor", "verify", "tree").stderr == "1 good, 0 bad\n"
    finally:
        os.close(parent)
        subprocess.run(["rm", "-rf", tmp_path / "tree"], check=True)  # Python's own does not get there


def test_head_and_status_tell_in_a_line_each(shell: Shell, server: Server) -> None:
    (name,) = lay(server, noise(2048))
    assert re.fullmatch(
        rf"{name} +2\.0 KiB  \d+-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", shell.run("stor", "head", name).stdout
    )
    assert json.loads(shell.run("stor", "head", "--json", name).stdout)["size"] == 2048
    assert shell.run("stor", "head", sha(noise(9))).returncode == 1
    status = shell.run("stor", "status")
    assert (status.returncode, len(status.stdout.splitlines())) == (0, 5)
    assert re.search(r"\[#*\.*\] +\d+% +.* free  ok", status.stdout)


def test_status_of_a_server_that_is_away_is_1(shell: Shell, proxy: Proxy) -> None:
    proxy.refuse()
    done = shell.run("stor", "status", STOR_URL=proxy.endpoint)
    assert (done.returncode, done.stdout.startswith(proxy.endpoint)) == (1, True)


@pytest.mark.parametrize(
    "rows",
    [
        '[{}]',
        '[{"path": 1, "replica_set": null, "total_bytes": "x", "free_bytes": 0}]',
        '[{"path": "a", "total_bytes": 1, "free_bytes": 1e999}, {"total_bytes": 1, "free_bytes": NaN}]',
        '[{"total_bytes": 10, "free_bytes": 20}, {"total_bytes": 0, "free_bytes": 0}]',
        '{"a": 1}',
        '[' * 100_000,
    ],
)  # fmt: skip
def test_an_odd_status_is_shown_as_far_as_it_goes(shell: Shell, rows: str) -> None:
    told = f'{{"status": "fine", "version": "1", "storages": {rows}}}'.encode()
    with Scripted(lambda _: answer(200, told)) as site:
        done = shell.run("stor", "status", STOR_URL=site.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fine" in done.stdout
    assert all(len(line) < 400 for line in done.stdout.splitlines())


def test_a_status_steers_no_terminal_and_is_a_line_for_each(shell: Shell) -> None:
    row = r'{"path": "/a\nb", "available": false, "last_error": "\u001b[2J"}'
    told = rf'{{"status": "a\rb", "version": "1\n", "storages": [{row}]}}'
    with Scripted(lambda _: answer(503, told.encode())) as site:
        lines = shell.run("stor", "status", STOR_URL=site.url).stdout
    assert lines.replace("\n", "").isprintable()
    assert [line.split()[-1] for line in lines.splitlines()] == [r"a\rb", r"\x1b[2J"]


def test_a_page_for_people_is_no_status(shell: Shell) -> None:
    with Scripted(lambda _: answer(200, b"<html>\nWelcome\n")) as site:
        done = shell.run("stor", "status", STOR_URL=site.url)
    assert (done.returncode, done.stdout) == (
        1,
        f"{site.url}: the answer is no answer of Stor's: it is a page, with status 200\n",
    )


def test_a_time_that_no_calendar_has_is_left_out(shell: Shell) -> None:
    with Scripted(lambda _: answer(200, b"", "Last-Modified: Thu, 01 Jan 99999 00:00:00 GMT")) as site:
        done = shell.run("stor", "head", sha(b""), STOR_URL=site.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sha(b'')}         0 B  -\n", "")


def test_verify_names_the_bad_files(shell: Shell) -> None:
    good, bad = noise(10), noise(11)
    (shell.out / sha(good)).write_bytes(good)
    (shell.out / f"{sha(bad).upper()}.dat").write_bytes(good)
    (shell.out / "other").write_bytes(b"is not looked at")
    done = shell.run("stor", "verify", "out")
    assert (done.returncode, done.stderr) == (1, "1 good, 1 bad\n")
    assert done.stdout == f"out/{sha(bad).upper()}.dat: it is {sha(good)}\n"


def test_verify_reads_files_only(shell: Shell) -> None:
    os.mkfifo(shell.out / sha(b"nobody writes into it"))
    (shell.out / sha(b"a link to nowhere")).symlink_to("nowhere")
    done = shell.run("stor", "verify", "out")
    assert (done.returncode, done.stderr) == (1, "0 good, 1 bad\n")
    assert "No such file" in done.stdout


def test_verify_tells_which_directory_it_cannot_read(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, real = shell.out / "closed", os.scandir
    closed.mkdir()

    def refused(path: str) -> Any:
        if path == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)  # root, who runs the tests at times, may read everything
    assert verify.run(argparse.Namespace(directory=str(shell.out), verbose=False, json=False)) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{closed}: cannot be read: ")
    assert said.err == "0 good, 1 bad\n"


@pytest.mark.parametrize("words", [("verify", "out"), ("put", "out"), ("get", "--devnull", sha(b"0" * (8 << 20)))])
def test_a_system_that_has_no_thread_to_give_is_told_in_a_line(
    server: Server, shell: Shell, words: Sequence[str]
) -> None:
    lay(server, b"0" * (8 << 20))
    (shell.out / sha(b"")).touch()
    program = """if True:
        import sys, threading
        def refused(*_):
            raise RuntimeError("can't start new thread")
        threading._start_new_thread = refused
        from pystor.cli import main
        sys.exit(main())
    """
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(
        command, env=shell.environment, cwd=shell.directory, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "stor: can't start new thread: " in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_tells_of_the_first_files_long_before_it_has_found_the_last(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps in memory does not grow with the files of a disk."""
    real, name = trees.walk, sha(b"")
    (shell.out / name).touch()
    found = told = most = 0

    def walk(top: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, Sequence[str]]]:
        nonlocal found
        for _ in range(3000):
            found += 1
            yield from real(top, onerror)

    def tell(_verdict: verify.Verdict, **_: bool) -> None:
        nonlocal told, most
        told, most = told + 1, max(most, found - told)

    monkeypatch.setattr(trees, "walk", walk)
    monkeypatch.setattr(verify, "_tell", tell)
    assert verify.run(argparse.Namespace(directory=str(shell.out), verbose=True, json=False)) == 0
    assert told == 3000
    assert most <= 1000


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_of_verify_does_not_wait_for_the_files(
    shell: Shell, number: signal.Signals, status: int
) -> None:
    large = shell.out / sha(b"large")
    large.touch()
    os.truncate(large, 16 << 30)
    with shell.started("stor", "verify", "out") as process:
        eventually(lambda: str(large) in links_of(process.pid))
        process.send_signal(number)
        assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == status


IN_A_LOCK = """
import os, sys, threading
from pystor.client.commands.ending import ended

def work():
    lock = threading.Lock()
    with lock:
        lock.release()
        os.kill(os.getpid(), int(sys.argv[1]))

sys.exit(ended(work))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_in_the_middle_of_a_lock_is_one_and_no_failure_of_the_lock(
    number: signal.Signals, status: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LOCK, str(int(number))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("kind", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_for_each_shell(shell: Shell, kind: str) -> None:
    done = shell.run("stor", "completion", kind)
    assert done.returncode == 0
    assert "manifest" in done.stdout
    if kind == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_completion_completes_commands_options_and_paths(shell: Shell) -> None:
    (shell.directory / "photos").mkdir()
    (shell.directory / "phone.txt").touch()
    wanted = {
        "pu": ["put"],
        "put --mani": ["--manifest"],
        "put pho": ["phone.txt", "photos"],
        "put --json phone.txt pho": ["phone.txt", "photos"],
        "put --manifest pho": ["phone.txt", "photos"],
        "get --password-file pho": ["phone.txt", "photos"],
        "get pho": ["photos"],
        "get 11 12 pho": ["photos"],
        "head pho": [],
        "verify pho": ["photos"],
        "serve --config pho": ["phone.txt", "photos"],
        "storage adopt pho": ["phone.txt", "photos"],
        "serve --port pho": [],
    }
    script = shell.run("stor", "completion", "bash").stdout + "".join(
        f"COMP_WORDS=(stor {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_stor; echo ${{COMPREPLY[*]}}\n"
        for words in wanted
    )
    done = subprocess.run(
        ["bash"], input=script, cwd=shell.directory, capture_output=True, text=True, timeout=60, check=False
    )
    found = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert dict(zip(wanted, found, strict=True)) == wanted


@pytest.mark.parametrize("command", ["get", "put", "head", "status", "verify", "completion"])
def test_the_help_of_each_command_has_an_example(shell: Shell, command: str) -> None:
    assert f"\n  stor {command}" in shell.run("stor", command, "--help").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("stor", "get", "nonsense", "out"),
        ("stor", "get", "nowhere"),
        ("stor", "get", "--timeout", "soon"),
        ("stor", "get", "--max", "0"),
        ("stor", "get", "--s3host", "http://h", "--s3template", "{{.X}}"),
        ("stor", "get", "-u", "http://writer:TOPSECRET@host"),
        ("stor", "get", "-u", "writer:TOPSECRET@host:80"),
        ("stor", "get", "-u", "http://writer:TOPSECRET#@host"),
        ("stor", "get", "-u", "http://writer:80#TOPSECRET@host"),
        ("stor", "get", "-u", "http://writer:80/TOPSECRET@host"),
        ("stor", "get", "-u", "http://[::1"),
        ("stor", "get", "--s3host", "http://key:TOPSECRET@host"),
        ("stor", "get", "--s3host", "key:TOPSECRET@host"),
        ("stor", "get", "--s3host", "http://[::1"),
        ("stor", "get", "--s3host", "ftp://host"),
        ("stor", "get", "--s3host", " "),
        ("stor", "get", "-u", " "),
        ("stor", "get", "--timeout", "99999999999999999h"),
        ("stor", "get", "--timeout", f"{'9' * 400}h"),
        ("stor", "put", "--password-file", sys.executable, "-"),
        ("stor", "put"),
        ("stor", "put", "--manifest", "/dev/null", "-"),
        ("stor", "put", "-", sys.executable, "-"),
        ("stor", "verify", "nowhere"),
        ("stor-client",),
        ("stor-client", ""),
        ("stor", "get", ""),
        ("stor", "get", "", "."),
        ("stor", "get", sha(b""), ""),
        *(
            ("stor", verb, *flags, what)
            for verb, what in (("get", sha(b"")), ("put", sys.executable), ("head", sha(b"")))
            for flags in (("-u", "http://h/\udcff"), ("-u", "http://\udcff"), ("--user", "w\udcff"))
        ),
        ("stor", "get", "--s3host", "http://h/\udcff", sha(b"")),
        ("stor", "get", "--s3host", "http://h", "--s3template", "\udcff{{.Sha}}", sha(b"")),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_status_2(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.run(*words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "SECRET" not in done.stderr


# Whatever the shell makes of standard input, output and error


def in_a_shell(shell: Shell, line: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("stor ", f"{sys.executable} -m pystor ", 1)
    return subprocess.run(
        ["bash", "-c", line], cwd=shell.directory, env=shell.environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["put", "get", "status"])
def test_a_command_does_its_work_whatever_is_closed(shell: Shell, server: Server, command: str, closed: str) -> None:
    content = os.urandom(10)
    if command == "put":
        (shell.directory / "file").write_bytes(content)
        done = in_a_shell(shell, f"stor put file {closed}")
        assert server.head(sha(content)).status == 200
    elif command == "get":
        (name,) = lay(server, content)
        done = in_a_shell(shell, f"stor get {name} out {closed}")
        assert left_in(shell.out) == [name]
    else:
        done = in_a_shell(shell, f"stor status {closed}")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_closed_input_is_no_empty_blob(shell: Shell) -> None:
    done = in_a_shell(shell, "stor put - <&-")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "stor: -: standard input is closed")


@pytest.mark.parametrize(
    "command",
    ["put file", "put --json file", "get --json {name} out", "head {name}", "status", "verify in", "completion bash",
     "--version", "put --help"],
)  # fmt: skip
def test_an_output_that_is_full_is_told_in_a_line(shell: Shell, server: Server, command: str) -> None:
    (name,) = lay(server, noise(10))
    files(shell.directory / "in", [b"x"])[0].rename(shell.directory / "in" / name)
    (shell.directory / "file").write_bytes(noise(10))
    done = in_a_shell(shell, f"stor {command.format(name=name)} > /dev/full")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1] == "stor: standard output: No space left on device"


@pytest.mark.parametrize("command", ["get --json --max 1 --s3host {bucket} {names} out", "put --json --max 1 in"])
def test_an_output_that_is_full_is_told_once(shell: Shell, server: Server, proxy: Proxy, command: str) -> None:
    """Some results are told long before the last."""
    contents = [noise(10) for _ in range(8)]
    files(shell.directory / "in", contents)
    names = " ".join(lay(server, *contents))
    proxy.delay, shell.environment["STOR_URL"] = 0.03, proxy.endpoint
    done = in_a_shell(shell, f"stor {command.format(names=names, bucket=proxy.endpoint)} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "stor: standard output: No space left on device\n")


@pytest.mark.parametrize("way", ["", "--s3host http://127.0.0.1:9"])
def test_an_input_that_cannot_be_read_is_told_in_a_line(shell: Shell, way: str) -> None:
    done = in_a_shell(shell, f"stor get {way} out 0> /dev/null")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
    assert done.stderr.splitlines()[-1] == "stor: standard input: Bad file descriptor"


def test_a_reader_who_leaves_ends_verify_without_a_word(shell: Shell) -> None:
    for n in range(1500):
        (shell.out / f"{n:064}").touch()
    done = in_a_shell(shell, "stor verify out | head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (1, "")


def test_what_standard_output_has_no_letters_for_is_spelt(shell: Shell) -> None:
    (shell.out / os.fsdecode(sha(b"odd").encode() + b".\xff")).touch()
    done = shell.run("stor", "verify", "out", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (1, "0 good, 1 bad\n")
    assert done.stdout.startswith(f"out/{sha(b'odd')}.\\udcff: it is ")
    with Scripted(lambda _: answer(200, rb'{"status": "w\ud800ll", "version": "1", "storages": []}')) as site:
        done = shell.run("stor", "status", STOR_URL=site.url, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{site.url} (Stor 1): w\\ud800ll\n", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_that_does_not_block_is_told_everything(shell: Shell, stream: str) -> None:
    """Python would leave lines out, and say nothing of that."""
    names = [sha(b"%d" % number) for number in range(200)]
    for number, name in enumerate(names):
        (shell.out / name).write_bytes(b"%d" % number)
    output, given = os.pipe()
    os.set_blocking(given, False)
    fcntl.fcntl(given, fcntl.F_SETPIPE_SZ, 4096)
    words = ["verify", "-v", "out"] if stream == "stdout" else ["head", *names]  # which the server has not
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: given}
    with (
        subprocess.Popen(
            [*SCRIPTS["stor"], *words],
            cwd=shell.directory,
            env=shell.environment,
            stdout=outputs["stdout"],
            stderr=outputs["stderr"],
        ) as process,
        os.fdopen(output) as reader,
    ):
        eventually(lambda: not select.select((), (given,), (), 0)[1])  # it is full
        time.sleep(0.3)  # more is told
        os.close(given)
        assert [name in line for name, line in zip(sorted(names), sorted(reader), strict=True)] == [True] * len(names)
    assert process.returncode == (stream == "stderr")


# Where the settings come from


def test_the_server_and_the_writer_come_from_the_file_or_netrc(shell: Shell, server: Server, tmp_path: Path) -> None:
    empty = {"STOR_URL": "", "STOR_USER": ""}
    environment = {name: value for name, value in shell.environment.items() if name != "STOR_PASSWORD"}
    shell.environment = environment | empty
    assert "no server is named" in shell.run("stor", "put", "-").stderr
    config = tmp_path / "home/.config/stor/client.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'servers = "{server.url}"\n')
    (tmp_path / "home/.netrc").write_text(f"machine 127.0.0.1 login {server.user} password {server.password}\n")
    (tmp_path / "home/.netrc").chmod(0o600)
    assert shell.run("stor", "put", "-", given="netrc").returncode == 0
    (tmp_path / "home/.netrc").unlink()
    (tmp_path / "home/secret").write_text(server.password + "\n")
    config.write_text(f'servers = ["{server.url}"]\nuser = "{server.user}"\npassword_file = "~/secret"\n')
    assert shell.run("stor", "put", "-", given="file").returncode == 0
    config.write_text("sevrers = []\n")
    assert "sevrers: unknown key" in shell.run("stor", "status").stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HOME": "/dev/null"}, ""),
        ({"XDG_CONFIG_HOME": "/dev/null", "NETRC": "/dev/null/netrc"}, ""),
        ({"XDG_CONFIG_HOME": "~nobody-is-called-so"}, "stor: ~nobody-is-called-so: "),
        ({"NETRC": "~nobody-is-called-so/netrc"}, "stor: ~nobody-is-called-so/netrc: "),
        ({"NETRC": "latin1"}, "stor: latin1: is no text in UTF-8\n"),
        ({"NETRC": "spaces"}, "stor: spaces: cannot be used: "),
        ({"NETRC": "first"}, "stor: first: cannot be used: "),
        ({"STOR_PASSWORD": "TOP SECRET \udcff"}, "stor: the server: the password is no text in UTF-8\n"),
        ({"XDG_CONFIG_HOME": "odd"}, "stor: 'a\\x00b': is no path of a file: embedded null byte\n"),
    ],
)
def test_settings_that_cannot_be_read_are_a_line_and_none_need_not_be_there(
    shell: Shell, server: Server, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    (tmp_path / "latin1").write_bytes(b"machine 127.0.0.1 login w password caf\xe9\n")
    (tmp_path / "spaces").write_text("machine 127.0.0.1 login w password a TOPSECRET\n")
    (tmp_path / "first").write_text("TOPSECRET machine 127.0.0.1\n")
    (tmp_path / "odd/stor").mkdir(parents=True)
    (tmp_path / "odd/stor/client.toml").write_text(r'password_file = "a\u0000b"')
    (name,) = lay(server, noise(10))
    del shell.environment["STOR_PASSWORD"]
    done = shell.run("stor", "head", name, **variables)
    assert (done.returncode, done.stderr[: len(said) or None]) == (2 if said else 0, said)
    assert len(done.stderr.splitlines()) == bool(said)
    assert "SECRET" not in done.stderr


def test_a_home_that_is_none_of_ours_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0)
    nothing = argparse.Namespace(servers=[], user=None, password_file=None)
    ours = {"STOR_URL": "http://h", "STOR_USER": "u"}
    with as_nobody():
        assert settle(nothing, ours | {"HOME": str(home)}).servers == [servers.Server("http://h", "u")]
        for named in ({"XDG_CONFIG_HOME": str(home)}, {"HOME": "/", "NETRC": str(home / "netrc")}):
            with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
                settle(nothing, ours | named)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user may be known to nobody
    assert settle(nothing, ours).servers == [servers.Server("http://h", "u")]
    with pytest.raises(ConfigError, match="no server is named"):
        settle(nothing, {})


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root, who runs the tests at times, may read everything."""
    we = os.geteuid()
    if we == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(we)


def test_the_password_is_read_once(shell: Shell, server: Server, tmp_path: Path) -> None:
    """It may come by a pipe, as `--password-file <(command)` has it."""
    os.mkfifo(tmp_path / "secret")
    missing = sha(noise(9))
    words = ("stor", "get", "--user", server.user, "--password-file", str(tmp_path / "secret"), missing, "out")
    with shell.started(*words, STOR_PASSWORD="") as process:
        (tmp_path / "secret").write_text(server.password)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, "not found" in said) == (1, True)


def test_credentials_need_not_be_ascii(shell: Shell, server: Server) -> None:
    (name,) = lay(server, noise(200_000))
    done = shell.run("stor", "get", name, sha(noise(9)), "out", STOR_USER="schreiber-ä", STOR_PASSWORD="geheim-ü")
    assert (done.returncode, left_in(shell.out)) == (1, [name])
    assert "Traceback" not in done.stderr


def test_a_closed_input_is_told(shell: Shell) -> None:
    command = f"{sys.executable} -m pystor get out <&-"
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell.directory, env=shell.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stor: no SHA is named, and standard input is closed; name some, or give a list\n"


def test_the_password_is_not_in_the_process_list(shell: Shell, server: Server, proxy: Proxy) -> None:
    (name,) = lay(server, noise(4 << 20))
    proxy.rate = 1 << 20
    url = proxy.endpoint.replace("http://", f"http://{server.user}:TOPSECRET@")
    with shell.started("stor", "get", name, "out", STOR_URL=url) as process:
        eventually(lambda: proxy.received > 0)
        assert b"TOPSECRET" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


# On a terminal


def shown(shell: Shell, server: str, *words: str, results: IO[bytes] | None = None) -> str:
    """What a terminal of 80 columns shows of a command; its results may go elsewhere."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*SCRIPTS["stor"], *words],
        cwd=shell.directory,
        env=shell.environment | {"STOR_URL": server, "COLUMNS": "80"},
        stdout=results or terminal,
        stderr=terminal,
        stdin=terminal,
    ) as process:
        os.close(terminal)
        text = "".join(_everything(controller))
        assert process.wait(20) == 0
    return text


def test_a_terminal_of_80_columns_shows_how_far_it_is(shell: Shell, server: Server, proxy: Proxy) -> None:
    names = lay(server, *(noise(200_000) for _ in range(4)))
    proxy.rate = 150_000
    lines = [line.strip() for line in shown(shell, proxy.endpoint, "get", *names, "out").split("\r") if line.strip()]
    assert all(len(line) < 80 for line in lines)
    assert any(re.match(r"\[#+\.*\] +\d+%  \d/4 files  \S+ KiB  \S+ [KM]iB/s", line) for line in lines), lines
    assert lines[-1].startswith("4 downloaded: 781.2 KiB in ")


@pytest.mark.parametrize(
    ("key", "status", "said"), [(b"\x03", 130, ""), (b"\x04", 2, "stor: no password was given; "), (b"", 143, "")]
)
def test_the_question_for_the_password_can_be_left(shell: Shell, key: bytes, status: int, said: str) -> None:
    """By Ctrl-C, by Ctrl-D, and by SIGTERM."""
    del shell.environment["STOR_PASSWORD"]
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*SCRIPTS["stor"], "put", "/etc/hosts"],
        cwd=shell.directory,
        env=shell.environment,
        stdout=terminal,
        stderr=terminal,
        stdin=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  or its Ctrl-C is no signal
    ) as process:
        os.close(terminal)
        shown = os.read(controller, 65536).decode()
        assert shown.startswith(f"Password of {shell.environment['STOR_USER']} at ")
        os.write(controller, key)
        if not key:
            process.terminate()
        assert process.wait(5) == status
        shown = "".join(_everything(controller))
    assert (said in shown, shown.count("\n")) == (True, 1 + bool(said)), shown


def test_results_on_a_terminal_stand_on_lines_of_their_own(shell: Shell, server: Server, tmp_path: Path) -> None:
    paths = files(tmp_path / "src", [os.urandom(100_000) for _ in range(40)])
    with Proxy(("127.0.0.1", server.port), delay=0.05) as slow:
        told = shown(shell, slow.endpoint, "put", "src")
    lines = [_seen(line) for line in told.split("\r\n")]
    results = {f"{Digest.of(path.read_bytes()).hex}  src/{path.name}" for path in paths}
    assert set(lines[:-2]) == results
    assert told.count("files") > 3  # the line that moves, between them
    assert lines[-2].startswith("40 uploaded")


def _seen(line: str) -> str:
    """What a terminal shows of a line that was written over several times."""
    shown = ""
    for text in line.split("\r"):
        shown = text + shown[len(text) :]
    return shown.rstrip()


def test_the_line_that_moves_stays_in_the_last_line_of_results_that_go_to_a_file(
    shell: Shell, server: Server, tmp_path: Path
) -> None:
    names = lay(server, *(noise(50_000) for _ in range(40)))
    with Proxy(("127.0.0.1", server.port), delay=0.05) as slow, (tmp_path / "results").open("wb") as results:
        told = shown(shell, slow.endpoint, "get", *names, "out", results=results)
    assert told.count(" " * 79) == 1  # it is taken away once, at the end, and does not flicker
    assert len((tmp_path / "results").read_text().splitlines()) == 40


@pytest.mark.parametrize("width", range(30, 130))
def test_the_line_that_moves_fits_into_the_terminal(width: int) -> None:
    totals = Totals()
    totals.expected, totals.sized, totals.final = 3003, 3003, True
    totals.done, totals.failed, totals.moved, totals.announced = 598, 1, 461 << 20, 507 << 20
    drawn = progress.line(totals, 8.0, width)
    assert len(drawn) < width
    assert ("[#" in drawn) == (width >= 75)  # a bar of less than six is none


def _everything(descriptor: int) -> Iterator[str]:
    try:
        while piece := os.read(descriptor, 65536):
            yield piece.decode()
    except OSError:  # the other side is closed
        os.close(descriptor)


# Many


@pytest.mark.parametrize("count", [int(os.environ.get("STOR_MANY", "1000"))])
def test_many_small_blobs_go_up_and_come_down(shell: Shell, tmp_path: Path, count: int) -> None:
    """`STOR_MANY=10000` for as many."""
    contents = [os.urandom(100) for _ in range(count)]
    files(tmp_path / "src", contents)
    up = shell.run("stor", "put", "--max", "32", "src")
    assert (up.returncode, len(up.stdout.splitlines())) == (0, count), up.stderr
    down = shell.run("stor", "get", "--max", "16", "out", given=up.stdout)
    assert (down.returncode, len(left_in(shell.out))) == (0, count), down.stderr
    assert all((shell.out / Digest.of(content).hex).read_bytes() == content for content in contents)
