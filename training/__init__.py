"""detectd-train: makes model bundles from a user's recordings."""
