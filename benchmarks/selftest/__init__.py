"""Whether a running service keeps its promises, asked from outside, by requests that any client may send.

arguments     the command line
service       how it is asked: HTTP, gRPC, keys
deployment    what is there to be tested: the model, two pictures, and what the service says of them
checks        a claim, what is expected, and how to find out
runner        one check after the other, within the budget
the claims    keys, health, protocols, answers, headers, refusals, limits, hostile, deadlines, leaving, overload
report        a line for each claim, and one JSON document
"""
