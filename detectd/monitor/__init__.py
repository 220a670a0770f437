"""What operators look at: metrics, health, log."""
