"""What all layers use of machine and files: devices and precision, named seeds, memory, progress, tables as files."""
