"""Clients that come and go for minutes, against one server process: `make soak`."""
