"""What every room stands on.

It holds SQLite, files, errors, times, settings, logs, metrics and processes, and knows no other room.
"""
