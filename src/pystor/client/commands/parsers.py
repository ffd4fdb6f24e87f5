"""The command lines: flags, defaults, help. Nothing slow is imported here; what runs is imported when it runs."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TEMPLATE: Final = "{{.FirstShaByte}}/{{.SecondShaByte}}/{{.ThirdShaByte}}/{{.Sha}}"


def duration(text: str) -> float:
    """Read a time such as `30s`, `100ms`, `1m30s`, or a number of seconds; returns seconds."""
    parts = _DURATION.findall(text)
    try:
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        else:
            seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 30s, 100ms or 1m30s")
    return seconds


def count(text: str) -> int:
    """Read a number from 1 up."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _run(module: str) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command, by the name of its module here; it is imported then."""

    def run(given: argparse.Namespace) -> int:
        # What is imported is no garbage: to look for some meanwhile, and at the exit, is a fifth of a short run.
        gc.disable()
        command = importlib.import_module(f"pystor.client.commands.{module}")
        gc.enable()
        atexit.register(gc.freeze)
        ran: int = command.run(given)
        return ran

    return run


def add(commands: Any) -> None:
    """Add the client's commands to those of `stor`."""
    for name, words, example, fill in _COMMANDS:
        parser = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=_examples(example)
        )
        parser.formatter_class = argparse.RawDescriptionHelpFormatter  # which keeps the examples as they are
        fill(parser)
        parser.set_defaults(run=_run(name))


def _examples(lines: Sequence[str]) -> str:
    return "\n  ".join(["for example:" if len(lines) == 1 else "examples:", *lines])


def _server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("-u", "--storage"),
        dest="servers",
        action="append",
        default=[],
        metavar="URL",
        help="the server; may be given several times. Otherwise STOR_URL, or the file client.toml",
    )
    parser.add_argument("--user", metavar="NAME", help="who writes; the password is never an argument")
    parser.add_argument("--password-file", metavar="FILE", help="a file whose first line is the password")
    parser.add_argument(
        "--timeout", type=duration, default=30.0, metavar="TIME", help="longest time without a byte (30s)"
    )
    parser.add_argument("--attempts", type=count, default=10, metavar="N", help="how often to try in all (10)")
    parser.add_argument(
        "--delay", type=duration, default=0.1, metavar="TIME", help="delay before the second try, then doubled (100ms)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what happens to each file")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each thing that happens")


def _downloads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max", type=count, default=4, metavar="N", help="how many at once (4)")
    parser.add_argument("--devnull", action="store_true", help="check what comes, and keep nothing")
    parser.add_argument("--suffix", default="", help="end of each file's name, as .dat")
    parser.add_argument("--upper", action="store_true", help="names in upper case; the suffix stays as it is")
    parser.add_argument("--s3host", metavar="URL", help="a bucket that is read first, as https://BUCKET.s3.example")
    parser.add_argument("--s3template", metavar="TEXT", help=f"where a blob lies in it ({_TEMPLATE})")


def _get(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="SHA", help="what to download; without any, read from the input")
    parser.add_argument("directory", nargs="?", metavar="DIR", help="where to, the last argument that is no SHA (.)")
    _server(parser)
    _downloads(parser)


def _put(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a directory with all files below it, links to directories left out, or - for input",
    )
    parser.add_argument("--max", type=count, default=4, metavar="N", help="how many at once (4)")
    parser.add_argument("--manifest", metavar="FILE", help="note what is uploaded, and leave out what is noted there")
    _server(parser)


def _head(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="SHA", help="what to describe")
    _server(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="files whose names begin with a SHA are read")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the good ones too")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each file")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell reads it")


_COMMANDS: Final[Sequence[tuple[str, str, Sequence[str], Callable[[argparse.ArgumentParser], None]]]] = (
    (
        "get",
        "download blobs, each whole and verified",
        (
            "stor get -u http://127.0.0.1:8080 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 .",
            "stor get --max 16 --suffix .dat downloads < list.txt",
        ),
        _get,
    ),
    (
        "put",
        "upload files, and print their digests as sha256sum does",
        ("stor put --manifest uploaded.sha256 photos", "tar c photos | stor put -"),
        _put,
    ),
    (
        "head",
        "describe blobs: size and time",
        ("stor head e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",),
        _head,
    ),
    ("status", "show how the servers and their storages are", ("stor status -u http://127.0.0.1:8080",), _server),
    ("verify", "compare local files with the digests they are named after", ("stor verify downloads",), _verify),
    (
        "completion",
        "print what makes a shell complete these commands",
        ("stor completion bash > ~/.local/share/bash-completion/completions/stor",),
        _completion,
    ),
)


def original(parser: argparse.ArgumentParser) -> None:
    """Give a parser the command line of the original's client: one directory, and SHAs on standard input."""
    parser.add_argument("directory", metavar="downloadDir", help="directory for downloaded files")
    parser.set_defaults(names=[])
    _server(parser)
    _downloads(parser)
