"""The configuration as typed values, validated at start: every problem at once, each naming its key and its mend."""

from pystor.config.embedded import Embedded, absolute, embedded, preview
from pystor.config.loading import load, override
from pystor.config.neighbours import Amqp, Credentials, LogOutput, S3Credentials, Server, Statsite
from pystor.config.problems import MASK
from pystor.config.settings import Settings
from pystor.config.table import Key, keys_of, plain

__all__ = [
    "MASK",
    "Amqp",
    "Credentials",
    "Embedded",
    "Key",
    "LogOutput",
    "S3Credentials",
    "Server",
    "Settings",
    "Statsite",
    "absolute",
    "embedded",
    "keys_of",
    "load",
    "override",
    "plain",
    "preview",
]
