"""Feature interactions and small networks: plain functions where there are no weights, ``nnx`` modules where there are.

Shapes: B batch, F fields, K factors, P = F(F-1)/2 pairs, H hidden units or CIN maps. Every kernel is called ``kernel``
and has at least two axes; every ``bias`` and every BatchNorm ``scale`` has one. L2 relies on that.
"""
