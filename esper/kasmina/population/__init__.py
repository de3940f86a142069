"""Many growing models of one shape that run as one.

Tensors carry members in front: planes are [K, C, H, W, B], rows [K, B, C] or [K, B, T, C]. What a member computes does not
depend on who runs beside it, to the last bit of float32 on one CPU thread.
"""
