"""What a program runs on: meshes, hosts, processes, signals."""
