"""Searches over a run's settings on Ray Tune: many runs of the same driver, one database, one report."""
