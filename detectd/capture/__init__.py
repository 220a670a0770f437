"""Sound devices onto the wire: one recorder process per device, a supervisor that keeps it alive. Knows no detector."""
