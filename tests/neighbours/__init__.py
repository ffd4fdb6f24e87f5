"""The tests against real neighbours: each starts the real server, and breaks it."""
