"""One technology a file or a package, each behind a small protocol."""
