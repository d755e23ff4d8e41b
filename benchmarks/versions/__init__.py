"""The versions of a model change while it is asked: what becomes of the requests, and what a change costs.

files        a model directory whose versions differ in ways that are known
references   what eager torch says of each version
changes      what is asked of the service: which versions, labels and weights
scenarios    one function for each change, and what must have come of it
session      the service under a steady load, from its start to its end
report       figures of the moments of a change beside those without one
"""
