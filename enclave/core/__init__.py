"""What runs inside the sealed process: open, screen, aggregate, sign.

It sees `qflare_protocol` and numpy, nothing of Django and no network. Its source files, together
with those of `qflare_protocol`, are the code measurement that devices pin.
"""
