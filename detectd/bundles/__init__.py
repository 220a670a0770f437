"""Model bundles: written, checked, loaded and scored with."""
