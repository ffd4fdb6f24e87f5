"""The commands, as somebody types them: what they print where, and the status they end with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import pystor
from pystor import __version__
from tests.neighbours.servers.ports import free_port
from tests.support import needs, processes

Stor: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@dataclasses.dataclass(frozen=True)
class Started:
    """A running `stor serve`: the lines that it printed, the last of which tells its URL, and its first process."""

    lines: list[str]
    pid: int

    @property
    def url(self) -> str:
        return self.lines[-1].removeprefix("listening on ")


@contextlib.contextmanager
def started(directory: Path, *arguments: str) -> Iterator[Started]:
    """Run `stor serve` in a directory with a port that it picks; at the end it has to leave nothing behind."""
    with (
        (directory / "stderr").open("wb") as errors,
        subprocess.Popen(
            command("serve", "--port", "0", "--workers", "1", *arguments),
            cwd=directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Started(list(lines_until_it_listens(process)), process.pid)
        finally:
            process.terminate()
            process.wait(30)
        assert process.returncode == 0
        processes.eventually(lambda: not processes.in_session(process.pid), what="no process is left")


def lines_until_it_listens(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")
        if line.startswith("listening on "):
            return
    pytest.fail("the server ended before it listened; see `stderr` in its directory")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pystor", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CONFIG_FILE"} | more


@pytest.fixture
def stor(tmp_path: Path) -> Stor:
    """Run `stor` in a directory of its own and return when it has ended."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file without faults: a pair of one storage."""
    (tmp_path / "data").mkdir()
    return written(tmp_path / "stor.json", {"storage_pairs": [[str(tmp_path / "data")]], "basic_auth": "a:TOPSECRET"})


def written(path: Path, document: dict[str, object]) -> Path:
    path.write_text(json.dumps(document))
    return path


def shell(line: str, directory: Path) -> str:
    """Paste a line into a shell, and return what it prints."""
    done = subprocess.run(["bash", "-c", line], cwd=directory, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


# What needs no server


def test_the_version_is_told(stor: Stor) -> None:
    done = stor("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stor {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [(), ("fly",), ("serve", "--frob"), ("serve", "--port"), ("check-config", "--config")]
)
def test_a_command_line_that_means_nothing_is_one_line_and_status_2(stor: Stor, arguments: tuple[str, ...]) -> None:
    done = stor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"stor: .*; stor( [a-z-]+)? --help tells how it is used\n", done.stderr)


PARSED = """
import json, sys
from pystor.cli import _parser
for line in sys.stdin:
    given = vars(_parser().parse_args(json.loads(line)))
    words = {name: given[name] for name in ("paths", "names", "directory", "path") if given.get(name)}
    print(json.dumps(words, default=str))
"""


def test_words_behind_two_dashes_are_arguments_with_every_python() -> None:
    """Each has another `argparse`; all that this machine has are asked, since tests run with one."""
    meant: list[tuple[str, dict[str, Any]]] = [
        ("put a -v -- b", {"paths": ["a", "b"]}),
        ("put -- -x -- -v", {"paths": ["-x", "--", "-v"]}),
        ("put -u http://h -- a", {"paths": ["a"]}),
        ("put - -v a --", {"paths": ["-", "a"]}),
        ("get -- here", {"names": ["here"]}),
        ("get --suffix=-- 11 -v here", {"names": ["11", "here"]}),
        ("head -- 11", {"names": ["11"]}),
        ("verify -v -- --", {"directory": "--"}),
        ("storage adopt --config c -- /x", {"path": "/x"}),
        ("status --", {}),
    ]
    lines = "".join(f"{json.dumps(line.split())}\n" for line, _ in meant)
    for python in pythons():
        done = subprocess.run(
            [python, "-B", "-c", PARSED],
            input=lines,
            env=processes.unmeasured() | {"PYTHONPATH": str(Path(pystor.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == "", python
        assert [json.loads(line) for line in done.stdout.splitlines()] == [words for _, words in meant], python


def pythons() -> list[str]:
    """The one that runs the tests, and all newer ones that can be run by their names."""
    found = [shutil.which(f"python3.{minor}") for minor in range(sys.version_info.minor + 1, 20)]
    return [sys.executable, *filter(runs, filter(None, found))]


def runs(python: str) -> bool:
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("put a --frob -- b", "unrecognized arguments: --frob"),
        ("verify a -x -- b", "unrecognized arguments: -x b"),
        ("verify a -- --", "unrecognized arguments: --"),
        ("status a -- b", "unrecognized arguments: a b"),
        ("serve --port -- 80", "argument --port: expected one argument"),
        ("get --s3 x", "ambiguous option: --s3 could match --s3host, --s3template"),
        ("put --", "the following arguments are required: PATH"),
    ],
)
def test_what_does_not_fit_a_command_is_named(stor: Stor, line: str, wrong: str) -> None:
    done = stor(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"stor: {re.escape(wrong)}; stor( \w+)? --help tells how it is used\n", done.stderr)


@pytest.mark.parametrize("arguments", [("serve", "--config", "/a\r\nb\x1b"), ("status", "/a\r\nb\x1b")])
def test_a_line_stays_one_whatever_it_names(stor: Stor, arguments: tuple[str, ...]) -> None:
    done = stor(*arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "/a\\r\\nb\\x1b" in done.stderr


def test_help_tells_the_commands_and_their_options(stor: Stor) -> None:
    assert all(name in stor("--help").stdout for name in ("serve", "check-config", "--version"))
    assert all(name in stor("serve", "--help").stdout for name in ("--config", "--host", "--port", "--workers"))


def test_check_config_prints_what_is_in_force_and_that_is_a_configuration(
    stor: Stor, config: Path, tmp_path: Path
) -> None:
    done = stor("check-config", "--config", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    in_force = json.loads(done.stdout)
    assert in_force["storage_pairs"] == [[str(tmp_path / "data")]]
    assert in_force["upload_idle_timeout"] == 30
    again = stor("check-config", "--config", str(written(tmp_path / "again.json", in_force)))
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_check_config_tells_no_secret(stor: Stor, config: Path) -> None:
    done = stor("check-config", "--config", str(config))
    assert "a:********" in done.stdout
    assert "TOPSECRET" not in done.stdout + done.stderr


def test_check_config_tells_warnings_beside_what_it_prints(stor: Stor, config: Path) -> None:
    written(config, json.loads(config.read_text()) | {"durability": "none"})
    done = stor("check-config", "--config", str(config))
    assert done.returncode == 0
    line = "durability: none: a power cut can lose acknowledged uploads; use fsync for real data"
    assert done.stderr == f"stor: warning: {line}\n"
    assert json.loads(done.stdout)["durability"] == "none"


@pytest.mark.parametrize("name", ["check-config", "serve"])
def test_a_bad_configuration_is_told_whole_with_status_2(stor: Stor, tmp_path: Path, name: str) -> None:
    log = [["Screen", "min_level", "info"], ["Foo"]]
    bad = written(tmp_path / "stor.json", {"storage_pairs": [[]], "prot": 1, "port": "x", "log": log})
    done = stor(name, "--config", str(bad), "--workers", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "stor: prot: unknown key; did you mean port?",
        "stor: storage_pairs[0]: the pair is empty; name its storages, or remove it",
        "stor: port: must be a whole number from 0 to 65535, not text",
        "stor: --workers: must be a whole number from 1 to 1024; this one is too small",
        "stor: log[1]: 'Foo' is no kind of output; there are Screen, File, File::Locked, Syslog, Gelf",
    ]


@pytest.mark.parametrize("name", ["check-config", "serve", "doctor", "repair"])
def test_an_output_of_the_log_that_cannot_be_is_told_by_every_command(stor: Stor, config: Path, name: str) -> None:
    written(config, json.loads(config.read_text()) | {"log": [["Foo"], ["File", "filename", "/\0"]]})
    done = stor(name, "--config", str(config))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "stor: log[0]: 'Foo' is no kind of output; there are Screen, File, File::Locked, Syslog, Gelf",
        "stor: log[1]: filename must be text without NUL and broken characters",
    ]


def test_the_option_wins_over_the_environment(stor: Stor, config: Path) -> None:
    assert stor("check-config", CONFIG_FILE=str(config)).returncode == 0
    assert stor("check-config", "--config", str(config), CONFIG_FILE="/gone").returncode == 0
    assert "/gone: cannot be read" in stor("check-config", CONFIG_FILE="/gone").stderr


@pytest.mark.parametrize("variables", [{}, {"CONFIG_FILE": ""}])
def test_check_config_without_a_configuration_prints_the_embedded_default_and_makes_nothing(
    stor: Stor, tmp_path: Path, variables: dict[str, str]
) -> None:
    done = stor("check-config", "--port", "81", **variables)
    assert done.returncode == 0
    assert "this is the embedded default" in done.stderr
    in_force = json.loads(done.stdout)
    assert in_force["storage_pairs"] == [[str(tmp_path / "stor-data/data1"), str(tmp_path / "stor-data/data2")]]
    assert (in_force["basic_auth"], in_force["require_mount"], in_force["port"]) == ("writer:********", False, 81)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_when_the_command_line_is_wrong(stor: Stor, tmp_path: Path) -> None:
    done = stor("serve", "--port", "x", "--host", "http://here")
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["--host", "--port"]
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_default_that_cannot_be_made_is_one_line(stor: Stor, tmp_path: Path) -> None:
    (tmp_path / "stor-data").touch()
    done = stor("serve")
    assert done.returncode == 2
    assert re.fullmatch(r"stor: .*/stor-data.*; mend it, or name a configuration with --config\n", done.stderr)


@pytest.mark.parametrize("words", ["serve", "check-config", "doctor", "repair", "storage adopt --config {config} data"])
def test_a_current_directory_that_is_gone_is_one_line(tmp_path: Path, config: Path, words: str) -> None:
    needs.tool("bash")
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["bash", "-c", 'rmdir "$PWD" && exec "$@"', "bash", *command(*words.format(config=config).split())],
        cwd=tmp_path / "gone",
        env=environment(PYTHONPATH=str(Path(pystor.__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stor: the current directory: No such file or directory; change to one that is there\n"


def test_a_server_goes_on_when_the_directory_that_it_was_started_in_is_gone(tmp_path: Path, config: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    written(config, json.loads(config.read_text()) | {"log": [["File", "filename", "stor.log"]], "access_log": 1})
    with started(gone, "--config", str(config)) as server:

        def answers() -> bool:
            return urllib.request.urlopen(f"{server.url}/live").read() == b"OK"  # type: ignore[no-any-return]  # noqa: S310

        assert answers()
        processes.eventually((gone / "stor.log").exists)
        before = set(processes.in_session(server.pid))
        assert {os.readlink(f"/proc/{pid}/cwd") for pid in before} == {"/"}
        shutil.rmtree(gone)
        os.kill(server.pid, signal.SIGHUP)
        processes.eventually(lambda: not before <= set(processes.in_session(server.pid)))
        assert answers()


def test_the_version_and_the_check_do_not_load_the_server(config: Path) -> None:
    script = (
        "import sys; from pystor.cli import main; main(['check-config', '--config', sys.argv[1]]);"
        "sys.exit(any(name.startswith(('uvicorn', 'asyncio', 'pystor.http')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script, str(config)], capture_output=True, timeout=60, check=True)


# What needs the server


def test_the_listening_line_is_exactly_that(tmp_path: Path, config: Path) -> None:
    with started(tmp_path, "--config", str(config)) as server:
        assert len(server.lines) == 1
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9][0-9]*", server.lines[0])


@pytest.mark.may_skip("not every machine that runs the tests has IPv6")
@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("0.0.0.0", "0.0.0.0")])  # noqa: S104  just that
def test_the_listening_line_shows_the_host_as_a_url_does(tmp_path: Path, config: Path, host: str, shown: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("needs an IPv6 loopback address; enable IPv6")
    with started(tmp_path, "--config", str(config), "--host", host) as server:
        assert re.fullmatch(rf"http://{re.escape(shown)}:[0-9]+", server.url)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_port_that_is_taken_is_one_line_that_names_it(stor: Stor, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stor("serve", "--config", str(config), "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    line = f"stor: 127.0.0.1:{port}: cannot listen there: Address already in use; choose another host or port\n"
    assert done.stderr == line
    assert list((config.parent / "data").iterdir()) == [], "nothing was adopted"


def test_a_host_that_is_not_here_is_one_line_that_names_it(stor: Stor, config: Path) -> None:
    done = stor("serve", "--config", str(config), "--host", "192.0.2.1", "--port", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("stor: 192.0.2.1:1: cannot listen there: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("check-config",), ("doctor",), ("serve", "--port", "0")])
def test_what_the_machine_has_no_room_for_is_one_line(config: Path, arguments: tuple[str, ...]) -> None:
    needs.tool("bash")
    line = "ulimit -n 12; exec " if arguments[0] == "serve" else "exec >/dev/full; exec "
    done = subprocess.run(
        ["bash", "-c", f'{line} "$@"', "bash", *command(*arguments, "--config", str(config))],
        env=processes.unmeasured(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    serving, printing = (
        ".*: Too many open files|.*] Too many open files",
        "stor: standard output: No space left on device",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"({serving if arguments[0] == 'serve' else printing})\n", done.stderr)


def test_what_is_not_written_is_not_told_of_standard_output() -> None:
    script = "import os; from pystor.client.commands.hearing import heard; raise SystemExit(heard(os.wait))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "stor: No child processes\n")


@pytest.mark.parametrize("arguments", [("check-config",), ("doctor",)])
def test_a_command_that_nobody_reads_says_nothing(config: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        process = [*command(*arguments), "--config", str(config)]
        done = subprocess.run(
            process, env=environment(), stdout=nobody, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (("serve", "--port", "0"), "uvicorn"),
        (("repair", "--all"), "uvloop"),
        (("doctor",), "uvloop"),
        (("status", "-u", "http://127.0.0.1:9"), "pycurl"),
    ],
)
def test_an_interruption_while_a_command_is_loaded_ends_it_without_a_word(
    tmp_path: Path, config: Path, arguments: tuple[str, ...], loaded: str, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    slow = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(30)\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{loaded}.py").write_text(slow)
    path = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command(*arguments), env=environment(CONFIG_FILE=str(config), PYTHONPATH=path), stderr=subprocess.PIPE
    ) as process:
        processes.eventually(begun.exists)
        process.send_signal(number)
        assert process.communicate(timeout=10)[1] == b""
    assert process.returncode == (0 if arguments[0] == "serve" else 128 + number)


def test_a_sighup_while_the_server_is_loaded_does_not_end_it(tmp_path: Path, config: Path) -> None:
    begun, sent = tmp_path / "begun", tmp_path / "sent"
    slow = f"""
import pathlib, time
pathlib.Path({str(begun)!r}).touch()
while not pathlib.Path({str(sent)!r}).exists():
    time.sleep(0.01)
raise SystemExit(7)
"""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/uvicorn.py").write_text(slow)
    path = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command("serve", "--config", str(config), "--port", "0"), env=environment(PYTHONPATH=path)
    ) as process:
        processes.eventually(begun.exists)
        process.send_signal(signal.SIGHUP)
        sent.touch()
    assert process.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_the_doctor_does_not_wait_for_an_answer(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "data").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        neighbour = f"127.0.0.1:{silent.getsockname()[1]}"
        keys: dict[str, object] = {"storage_pairs": [[str(tmp_path / "data")]], "memcached_servers": [neighbour]}
        config = str(written(tmp_path / "stor.json", keys))
        with subprocess.Popen(
            command("doctor", "--config", config), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            connection, _ = silent.accept()
            process.send_signal(number)
            _, said = process.communicate(timeout=10)
            connection.close()
    assert (process.returncode, "Traceback" in said.decode()) == (128 + number, False)


def test_a_server_whose_standard_output_takes_nothing_serves(tmp_path: Path, config: Path) -> None:
    port = free_port()
    arguments = ("serve", "--config", str(config), "--port", str(port), "--workers", "1")
    with (
        Path("/dev/full").open("wb") as full,
        (tmp_path / "stderr").open("wb") as errors,
        subprocess.Popen(command(*arguments), env=environment(), stdout=full, stderr=errors) as process,
    ):
        processes.eventually(lambda: answers(port), what="it answers")
        time.sleep(0.2)  # in which it would announce itself
        assert answers(port)
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        return connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    return False


def test_no_secret_is_ever_told(tmp_path: Path, config: Path) -> None:
    secrets = {
        "rabbitmq_uri": "amqp://u:TOPSECRET@127.0.0.1:9",
        "s3_enabled": True,
        "s3_credentials": {"access_key": "k", "secret_key": "TOPSECRET", "host": "http://127.0.0.1:9"},
        "basic_auth": "writer:TOPSECRET",
        "access_log": 1,
        "log_level": "debug",
    }
    written(config, json.loads(config.read_text()) | secrets)
    with started(tmp_path, "--config", str(config)) as server:
        url = server.lines[-1].split()[-1]
        for path in ("0" * 64, "status", "x?password=TOPSECRET"):
            subprocess.run(["curl", "-s", "-u", "writer:TOPSECRET", f"{url}/{path}"], check=True, capture_output=True)
    told = (tmp_path / "stderr").read_text()
    assert told.count(f"/{'0' * 64}") == 1
    assert "TOPSECRET" not in told


def test_the_lines_that_the_first_start_prints_can_be_pasted(tmp_path: Path) -> None:
    needs.tool("bash", "curl", "sha256sum", "cmp")
    (tmp_path / "README.md").write_text("a file to try with\n")
    with started(tmp_path) as server:
        upload, download, look = pasted(server.lines)
        assert (tmp_path / "stor-data/credentials").read_text().strip() in upload
        assert len(json.loads(shell(upload, tmp_path))) == 2
        assert shell(download, tmp_path) == "the same\n"
        assert len(shell(look, tmp_path).splitlines()) == 2
        assert (tmp_path / "stderr").read_text() == ""


def test_the_default_says_it_when_its_storages_are_new_a_second_time(tmp_path: Path) -> None:
    with started(tmp_path):
        pass
    for name in ("data1", "data2"):
        shutil.rmtree(tmp_path / "stor-data" / name)
    with started(tmp_path):
        pass
    assert (tmp_path / "stderr").read_text().count("no storage of its set had a marker: it is a new one\n") == 2


def test_later_starts_print_lines_that_can_be_pasted_but_not_the_password(tmp_path: Path) -> None:
    needs.tool("bash", "curl", "sha256sum")
    (tmp_path / "README.md").write_text("a file to try with\n")
    with started(tmp_path):
        pass
    with started(tmp_path) as server:
        password = (tmp_path / "stor-data/credentials").read_text().strip().removeprefix("writer:")
        assert password not in "\n".join(server.lines)
        assert len(json.loads(shell(pasted(server.lines)[0], tmp_path))) == 2


def pasted(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.startswith("  ")]
