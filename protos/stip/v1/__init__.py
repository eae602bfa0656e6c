"""Stubs generated from the .proto files in this folder by `make generate`."""
