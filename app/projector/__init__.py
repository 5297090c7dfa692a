"""From the log to the read models.

It folds, catches up, rebuilds and travels in time, and a process does so beside a server.
"""
