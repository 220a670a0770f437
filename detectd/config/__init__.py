"""config.toml as frozen dataclasses; knows the form, not whether what it names can be had."""
