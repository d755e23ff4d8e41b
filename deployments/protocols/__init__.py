"""Protocols translate, they never decide: each parses a request, calls the one data plane and renders its answer."""
