"""The best settings for a config on the machine at hand, under a stated latency: `python -m benchmarks.tune --help`.

candidate   what is tuned, and how a config says it
space       which candidates fit on the machine
engines     the engines alone, in this process's children: what is worth serving
rates       the highest rate at which a latency holds, by a few short measurements
served      a service that goes from one candidate to the next without a new cluster
study       the search: what to measure next, what was found, and for how long it goes on
finals      the best of them again, in turns, against chance
yaml_edits  changes to a YAML file that leave its comments alone
reasons     what was measured, as comments and as a table
frontier    the picture
told        what is written, drawn and printed
session     all of it in order
"""
