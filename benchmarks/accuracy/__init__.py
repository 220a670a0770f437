"""Parts of `benchmarks/detection.py`."""
