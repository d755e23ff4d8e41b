"""The three deployments of the graph and what they stand on.

Reading order, and the import rule (down only; `tests/unit/test_layers.py` holds it):

    0  errors, settings, statistics, messages, resizing
    1  imaging, batching, gathering, fetching, repository, workload    which do not import each other
    2  engines, protocols                                              which do not import each other
    3  dataplane, autoscaling                                          which do not import each other
    4  ingress, preprocessor, classifier                               which do not import each other
    5  graph.py, at the root
"""
