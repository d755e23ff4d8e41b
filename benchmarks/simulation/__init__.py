"""A discrete-event simulation of the graph, for benchmarks.capacity: how many replicas meet a latency at a load.

timeline        simulated time
cores           what takes time: cores that are shared, devices, stations that work through a queue
gates           deployments/gathering.py and deployments/batching.py in simulated time
replicas        the deployments' replicas, and the routers in front of them
service         the whole graph: requests in, latencies out
arrivals        when requests come
service_times   how long everything takes, and where each figure comes from
calibration     the same from what the benchmarks printed
autoscaler      Serve's rule, with its delays
plan, fleet     the least replicas that suffice, and the nodes they need
validation      measured beside predicted
plots           the pictures
"""
