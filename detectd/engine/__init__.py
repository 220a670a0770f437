"""From audio that waits to events. No thread, socket or clock of its own."""
