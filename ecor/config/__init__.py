"""Settings of models, training and scoring as frozen dataclasses, with units, defaults and range checks.

Nothing heavy is imported here, so that a command line built from these types answers `--help` at once.
"""
