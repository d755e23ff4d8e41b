"""Other servers with the same task as Aperture: an encoded image in, the five most probable labels out as JSON.

Each is written as its own documentation would have it and calls the same decoder and the same engine. `task` has what
they share; none of them checks limits, deadlines or overload as Aperture does.
"""
