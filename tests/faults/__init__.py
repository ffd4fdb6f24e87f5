"""Faults of disks, mounts and processes: what Stor promises whatever breaks."""
