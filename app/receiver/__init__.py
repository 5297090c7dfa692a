"""The hot path: a callback is checked, committed with its neighbours and answered."""
