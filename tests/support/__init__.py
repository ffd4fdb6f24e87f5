"""What the tests share: a real server on a real socket, real filesystems, and what they need from the machine."""
