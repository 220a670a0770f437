"""Events out: their JSON, the PUB socket and what else makes them known."""
