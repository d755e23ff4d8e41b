"""Faults and changes under load: what becomes of the requests, and how soon all is as before.

questions    pictures whose answers are known
ledger       what became of each request, by when, and how soon after a fault all was well again
load         a steady stream of questions over HTTP and gRPC, each answer checked
faults       the processes of a cluster, and the one that is killed
service      the cluster under test: its configuration, its state
scenarios    one function for each fault and each change
report       the table, and the JSON document
"""
