"""What came over the wire: blocks, their order, and what waits to be analysed. No sockets, no clock."""
