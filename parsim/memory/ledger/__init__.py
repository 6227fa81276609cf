"""The ledger of one micro-batch: what each op saves until its backward, and needs while it runs.

An op is data, a layer a list of them in forward order; frameworks and layouts choose lists and constants. Bytes on one
rank. Checks: GPT with dropout and unfused attention saves s*b*h*(34 + 5*a*s/h) (2205.05198, equation 1); a Llama layer
2*s*b*(6h + 2kv + 3f) with flash attention and a fused gate.
"""

from parsim.memory.ledger.entry import Block, Entry, Unit
from parsim.memory.ledger.layer import layer_ops, layer_units, with_gradients
from parsim.memory.ledger.tokens import Tokens, tokens_of

__all__ = ["Block", "Entry", "Tokens", "Unit", "layer_ops", "layer_units", "tokens_of", "with_gradients"]
