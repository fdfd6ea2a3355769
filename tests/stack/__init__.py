"""Real services for tests, started as plain processes on the loopback interface.

Standard library only, so that the services can be fetched before any virtual environment exists.
"""
