"""The machine: devices and precision, named seeds, memory, progress."""
