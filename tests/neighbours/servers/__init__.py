"""The real servers beside Stor, started for the tests and surely ended, and a proxy that breaks connections."""
