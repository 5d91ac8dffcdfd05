"""Which routed experts are worth keeping in memory: policies of a cache, routings on record, and replaying them.

Knows numbers only: no engine, backend or model. The engine drives the same objects that a replay drives.
"""
