"""ImageBind, the encoder of the paper."""
