"""The graph on several nodes: a Ray cluster of its own on this machine, whose autoscaler starts and replaces them."""
