"""Runs: how parts are built, joined, driven, saved and compared, in one process or on Ray."""
