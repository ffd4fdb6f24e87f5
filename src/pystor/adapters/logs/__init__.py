"""What happens, as lines of a log: for people, as JSON, in files, by syslog and to Graylog (GELF).

Whoever logs puts an entry into a bounded queue and goes on. Each output has a thread that writes what is in its queue,
so that a full pipe, a hung disk or a log server that is away holds nobody up. What finds no room is left out and
counted.
"""

from pystor.adapters.logs.bridge import set_up, tear_down
from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.formats import as_gelf
from pystor.adapters.logs.kinds import Described, problems
from pystor.adapters.logs.levels import LEVELS
from pystor.adapters.logs.network import chunks
from pystor.adapters.logs.observer import Logs
from pystor.adapters.logs.outputs import QUEUED, Output
from pystor.adapters.logs.repeats import log
from pystor.adapters.logs.sinks import File, Screen

__all__ = [
    "LEVELS",
    "QUEUED",
    "Described",
    "Entry",
    "File",
    "Logs",
    "Output",
    "Screen",
    "as_gelf",
    "chunks",
    "log",
    "problems",
    "set_up",
    "tear_down",
]
