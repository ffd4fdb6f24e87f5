"""The rooms one by one: over real directories and real filesystems, without a server."""
