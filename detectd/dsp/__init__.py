"""Sound as numbers: formats, resampling, the one definition of the features. No clock, and no file but in `clips`."""
