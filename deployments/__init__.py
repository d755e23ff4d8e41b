"""The three deployments of the graph and what they stand on.

Reading order, and the import rule (down only; `tests/unit/test_layers.py` holds it):

    0  errors, settings, statistics, messages, resizing, deadlines, draining, dimensions, histograms,
       instruments, trace_context
    1  decode_cost, imaging, decoder, decoder_process, decoding,
       batching, gathering, fetching, repository, workload, metrics, admission, access, watchdog,
       versions, catalogue, answer_keys, answer_cache, differences, comparison, promotion,
       recent, live_figures, seen_area, spans, tracing, work_spans,
       records, request_log, batch_metrics, version_metrics
    2  engines, protocols
    3  served, preparation; hops, model_client, image_way, dataplane, administration; shadowing, promotion_driver,
       trial_metrics, candidacy; autoscaling, routing, edge, live_poll
    4  ingress, preprocessor, classifier
    5  graph.py, at the root

What stands on one level does not import each other, except where the test says so.
"""
