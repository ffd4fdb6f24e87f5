"""The contract, checked from outside: a real server, real sockets, real directories."""
