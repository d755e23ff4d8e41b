"""The three deployments of the graph and what they stand on.

Reading order, and the import rule (down only; `tests/unit/test_layers.py` holds it):

    0  errors, settings, statistics, messages, resizing, deadlines, draining, dimensions
    1  decode_cost, imaging, decoder, decoder_process, decoding,
       batching, gathering, fetching, repository, workload, metrics, admission, access, watchdog
    2  engines, protocols
    3  hops and dataplane, autoscaling, routing, edge
    4  ingress, preprocessor, classifier
    5  graph.py, at the root

What stands on one level does not import each other, except where the test says so.
"""
