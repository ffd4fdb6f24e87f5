"""What the tests share: a real server on a real socket, real filesystems, and what they need from the machine."""

from tests.support.answers import Answer, receive
from tests.support.server import Server

__all__ = ["Answer", "Server", "receive"]
