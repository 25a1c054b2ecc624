"""Stages over many machines: each reads a record, calls `ecor`, and writes the next record."""
