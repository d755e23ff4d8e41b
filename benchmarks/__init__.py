"""Measurements. Each prints a table for people and, as its last line, one JSON document for machines.

Absolute numbers belong to the machine they were taken on; what carries over are the ratios within one run.
"""
