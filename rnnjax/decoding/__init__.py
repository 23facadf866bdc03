"""Decoding token by token over any step function: sampling, streaming, beam search.

A step function reads one token a row and scores the next:

    step_fn(carry, token, context) -> (carry, logits)

with carry and context pytrees whose leaves lead with B (context may be None), token (B,) int32 and
logits (B, V). ``jax.tree_util.Partial(f, params)`` passes params: it is a pytree, so they are
arguments of the compiled program and new ones never recompile. A plain function is static, and
arrays that it closes over are constants: define it once, because each new closure compiles anew.
"""

from rnnjax.decoding.beam import Hypotheses, beam_search
from rnnjax.decoding.sampling import Sample, sample, stream

__all__ = ["Hypotheses", "Sample", "beam_search", "sample", "stream"]
