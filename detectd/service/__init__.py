"""The daemon: threads, sockets and the order of starting and stopping."""
